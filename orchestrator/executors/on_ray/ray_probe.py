"""Runs a function in a worker of Ray, to see a machine as workers see it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from fewshot.errors.parts import failure_of
from orchestrator.executors.on_ray.connection import join

# A worker may have to be started first; without free cores it never is.
_SECONDS = 120.0


@dataclass(frozen=True)
class Probe:
    """result: of the function, None if `fault` says why there is none. resources: in words."""

    result: Any
    fault: str
    resources: str = ""


def on_worker(function: Callable[..., Any], *arguments: Any) -> Probe:
    """The result of a function of plain values in a worker.

    The cluster is that of RAY_ADDRESS, else Ray is started on this machine for this call.
    """
    try:
        connection = join()
    except Exception as error:  # of the network, of the version, of the token
        return Probe(None, failure_of(error).message)
    try:
        cluster = ray.cluster_resources()
        counts = {name: cluster.get(name, 0.0) for name in ("CPU", "GPU")}
        nodes = sum(node["Alive"] for node in ray.nodes())
        resources = f"{nodes} nodes, {counts['CPU']:.0f} cores, {counts['GPU']:.0f} GPUs"
        task = ray.remote(num_cpus=1, max_retries=0)(function)
        try:
            return Probe(ray.get(task.remote(*arguments), timeout=_SECONDS), "", resources)
        except GetTimeoutError:
            return Probe(None, f"no worker started within {_SECONDS:.0f} s", resources)
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            return Probe(None, failure_of(cause).message, resources)
    finally:
        if connection is not None:
            connection.close()
