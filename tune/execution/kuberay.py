"""The largest size of a cluster that KubeRay manages. It is read from the RayCluster in Kubernetes,
as by the autoscaler beside the head."""

import functools
import logging
import os
from typing import Any

from trainables.errors import first_line

_NAME, _NAMESPACE = "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"


def on_kubernetes() -> bool:
    """True in a pod that KubeRay has created."""
    return _NAME in os.environ and _NAMESPACE in os.environ


@functools.cache
def cluster_of_kubernetes() -> dict[str, Any] | None:
    """Return the cluster in the form of a `ray up` file, as it was at the first call; None if the
    pod may not read it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        produce = AutoscalingConfigProducer(os.environ[_NAME], os.environ[_NAMESPACE])
        config: dict[str, Any] = produce()
    except Exception as error:  # a failed request, a missing file, a refusal of Kubernetes
        logging.getLogger(__name__).warning(
            "the RayCluster cannot be read (%s): as many trials run as there are machines now; "
            "--concurrent N asks for more",
            first_line(error),
        )
        return None
    return config
