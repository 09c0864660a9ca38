"""Connected components of a graph whose edges are added over time."""

import numpy as np


class Components:
    """Components of the vertices 0 to n - 1; at first every vertex is its own component.

    Attributes:
        of: (n,) int64, number of each vertex's component; changes when edges are added.
    """

    def __init__(self, count: int):
        self.of = np.arange(count)

    def add_edges(
        self,
        left: np.ndarray,  # (m,) vertices
        right: np.ndarray,  # (m,) vertices
    ) -> None:
        """Join the components at both ends of each edge."""
        if not len(left):
            return
        from scipy.sparse import coo_array  # imported here: not needed if a store exists
        from scipy.sparse.csgraph import connected_components

        ends = (self.of[left], self.of[right])
        graph = coo_array((np.ones(len(left)), ends), shape=(len(self.of), len(self.of)))
        _, merged = connected_components(graph, directed=False)
        self.of = merged[self.of]

    def sizes(self) -> np.ndarray:  # (n,) int64
        """Size of the component of each vertex."""
        counts = np.bincount(self.of)
        return counts[self.of]

    def numbered(self) -> np.ndarray:  # (n,) int64
        """Numbers of the components from 0, in the order of their first vertices."""
        _, first, component = np.unique(self.of, return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return rank[component]
