"""vistune: hyperparameter search for computer vision on Ray."""

__all__ = ["__version__"]

__version__ = "0.1.0"
"""The one place of the version; pyproject.toml reads it from here."""
