"""What a worker on Ray needs, and which trials it trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.space.choices import Condition, may_be
from trials.contract import Recipe, TrialSpec


@dataclass(frozen=True, kw_only=True)
class WorkerKind:
    """Workers with the same resources.

    recipe: its program is made at the start of each worker; of a trial that they may train.
    count: None for as many as the cluster has room for, if there is no other kind.
    cpus: cores and threads of each; one is enough for the small matrices of most recipes.
    gpus: 0 to 1, or a whole number for a user's own loop; None for one GPU if the cluster has GPUs.
    resources: further resources of the nodes, by their names in Ray.
    only: what must hold of the options of a trial that they train.
    """

    recipe: Recipe
    count: int | None = 1
    cpus: int = 1
    gpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    only: tuple[Condition, ...] = ()

    def may_train(self, spec: TrialSpec) -> bool:
        """Whether a worker of this kind may train a trial."""
        return may_be(self.only, spec.choices)

    def needs(self, cluster: Mapping[str, float]) -> dict[str, Any]:
        """The options of Ray for such a worker. cluster: the resources of all nodes together."""
        gpus = (1 if int(cluster.get("GPU", 0)) else 0) if self.gpus is None else self.gpus
        needs = {"num_gpus": gpus, "num_cpus": min(int(cluster.get("CPU", 1)), self.cpus)}
        return needs | ({"resources": dict(self.resources)} if self.resources else {})
