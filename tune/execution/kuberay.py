"""The largest size of a cluster that KubeRay keeps: its RayCluster in Kubernetes, which the
autoscaler beside the head reads too."""

import functools
import logging
import os
from typing import Any

from trainables.errors import first_line

_NAME, _NAMESPACE = "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"


def on_kubernetes() -> bool:
    """True in a pod that KubeRay has made."""
    return _NAME in os.environ and _NAMESPACE in os.environ


@functools.cache
def cluster_of_kubernetes() -> dict[str, Any] | None:
    """The cluster in the form of a file of `ray up`, as it was when it was first asked for; None
    where the pod may not read it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        produce = AutoscalingConfigProducer(os.environ[_NAME], os.environ[_NAMESPACE])
        config: dict[str, Any] = produce()
    except Exception as error:  # of requests, of files that are missing, of Kubernetes' refusal
        logging.getLogger(__name__).warning(
            "the RayCluster cannot be read (%s): as many trials run as there are machines now; "
            "--concurrent N asks for more",
            first_line(error),
        )
        return None
    return config
