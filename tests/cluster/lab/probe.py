"""Print how each port answers without a token: python -m tests.cluster.lab.probe ADDRESS:PORT ...

It prints a line for each port, such as `10.0.0.1:6379 gRPC UNAUTHENTICATED`. Ports of gRPC answer
by service, so each is asked for one method of each of Ray's services. If VISTUNE_PROBE_TOKEN is
set, the ports are asked with that token.
"""

import http.client
import os
import sys

import grpc

TIMEOUT_S = 10
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/HealthCheck",
    "RayletDriver/ClusterInfo",
)


def answer(address: str, port: int, token: str) -> str:
    """Return how a port answers: "HTTP 401" and the like, "SSH", "closed", or "gRPC" with the
    methods that are open, or with the refusals if there are none."""
    try:
        return f"HTTP {_http(address, port, token)}"
    except (ConnectionRefusedError, TimeoutError):
        return "closed"
    except (http.client.HTTPException, ConnectionError) as no_http:
        if str(no_http).startswith("SSH-"):
            return "SSH"
    said = {method: _grpc(f"{address}:{port}", method, token) for method in METHODS}
    opened = [
        f"{method}: {code}"
        for method, code in said.items()
        if code not in ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE")
    ]
    return "gRPC " + (", ".join(opened) or ", ".join(sorted(set(said.values()))))


def _http(address: str, port: int, token: str) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request(
            "GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        return connection.getresponse().status
    finally:
        connection.close()


def _grpc(target: str, method: str, token: str) -> str:
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/ray.rpc.{method}")
        try:
            call(
                b"",
                timeout=TIMEOUT_S,
                metadata=[("authorization", f"Bearer {token}")] if token else [],
            )
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


if __name__ == "__main__":
    for place in sys.argv[1:]:
        host, _, number = place.rpartition(":")
        print(
            place, answer(host, int(number), os.environ.get("VISTUNE_PROBE_TOKEN", "")), flush=True
        )
