"""The summary of a search, computed from its records alone."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.loading import load_config
from orchestrator.config.plan import plan_of
from orchestrator.record import identity
from orchestrator.record.heartbeat import driver_of
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, read_records
from orchestrator.record.studies.study import StudiedTrial, StudyRecord
from orchestrator.results.measures import (
    BOUNDS,
    TESTED,
    Measured,
    difference_bounds,
    measure_tables,
)
from orchestrator.results.pooled import PooledComparison, pooled_comparisons
from orchestrator.results.retrained import SKILLS, Finalist, best_of, exported, finalists_of, rank
from orchestrator.results.returns import Returns, returns_of
from orchestrator.search.decisions.early_stopping import reason_for_stop
from orchestrator.search.finals.intervals import (
    NEGLIGIBLE,
    Interval,
    Verdict,
    verdict,
)

if TYPE_CHECKING:
    from orchestrator.results.explanation.explanation import Explanation

_JSON_STATES = {"pruned": "stopped"}


@dataclass(frozen=True)
class Summary:
    """The results of a search so far.

    Test results are in the `measure` of the search. It is accuracy, in [0, 1], if all held-out
    tasks are classification tasks. Else it is skill; on a regression task skill is the share of the
    variance that the model explains. For a user's own loop it is the score that the loop yields.
    """

    name: str
    state: str  # "complete", or else of the driver, see `record.heartbeat.Driver`
    trials: Mapping[str, int]
    lanes: int | None  # per worker; None before the first worker has started
    occupancy: float
    top: Sequence[StudiedTrial]  # the best trials by their score in the search
    finalists: Sequence[Finalist]
    best: Finalist | None  # the model that is exported
    candidate: Finalist | None  # the best candidate: the best of the searched trials
    uniform: Finalist | None  # uniform weights with tuned rates
    untrained: Finalist | None
    reference: Finalist | None  # the better of `uniform` and `untrained`, for the verdict
    verdict: Verdict | None
    measure: str  # "accuracy", "skill", or "score" for an own loop
    # Best candidate minus the better reference, on the test tasks; if there are none, on the
    # validation tasks.
    difference: Interval | None
    test: Mapping[str, Interval]  # measure on the test tasks of candidate, uniform, untrained
    figures: Mapping[str, float]  # accuracies of other models, such as the teacher
    null_losses: Mapping[str, float] = field(default_factory=dict)  # of the training tasks
    advice: Sequence[str] = ()  # signs that the result may be poor, with remedies
    stopped_early: str = ""  # why the search has fewer trials than planned
    failures: Mapping[str, int] = field(default_factory=dict)  # failed trials by their reason
    pooled: Sequence[PooledComparison] = ()  # differences from pooled models, on the test tasks
    returns: Sequence[Returns] = ()  # of policies in the test worlds, by step of adaptation
    share: str = ""  # the quantity of which skill is a share; empty for accuracy
    explain: "Callable[[], Explanation] | None" = field(default=None, repr=False, compare=False)
    home: Home | None = field(default=None, repr=False, compare=False)

    @cached_property
    def explanation(self) -> "Explanation":
        """Which training tasks help, what mattered, and health checks; takes seconds once."""
        assert self.explain is not None, "only a summary of a search in a home can be explained"
        return self.explain()

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, a HTML file that needs no network, to `out`; returns its path.

        out: by default `report.html` in the folder of the search. Takes some seconds.
        """
        from orchestrator.results.report.report import write_report  # which imports this module

        assert self.home is not None, "only a summary of a search in a home has a report"
        return write_report(self.name, self.home, None if out is None else Path(out))

    def __str__(self) -> str:
        """The answer of the search in sentences."""
        from orchestrator.results.sentences import sentence  # which imports this module

        return f"{sentence(self)} {self.stopped_early}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a NaN becomes null."""
        data: dict[str, Any] = _plain(
            {
                "name": self.name,
                "state": self.state,
                # The public JSON format calls a pruned trial "stopped".
                "trials": {_JSON_STATES.get(s, s): n for s, n in self.trials.items()},
                "lanes": self.lanes,
                "occupancy": self.occupancy,
                "best": _finalist(self.best),
                "finalists": [_finalist(f) for f in self.finalists],
                "baseline": _finalist(self.uniform),
                "references": {
                    "untrained": _finalist(self.untrained),
                    "uniform": _finalist(self.uniform),
                },
                "verdict": self.verdict,
                "measure": self.measure,
                "difference": None if self.difference is None else vars(self.difference),
                "test": {name: vars(value) for name, value in self.test.items()},
                "figures": dict(self.figures),
                "pooled": [each.to_dict() for each in self.pooled],
                "returns": [each.to_dict() for each in self.returns],
                "null_losses": dict(self.null_losses),
                "advice": list(self.advice),
                "stopped_early": self.stopped_early or None,
                "failures": dict(self.failures),
            }
        )
        return data


def summarise(name: str, records: SearchRecords, *, top: int = 10) -> Summary:
    """The summary of the search in `records`; `top`: the length of `Summary.top`."""
    trials, finals, tests = (r.trials() for r in (records.search, records.final, records.test))
    ranked = sorted(
        (t for t in trials if t.state == "complete"), key=lambda t: (-t.score, t.number)
    )
    done = records.search.notes.get("state") == "complete"
    measure = records.search.notes.get("measure", "")
    finalists = finalists_of(trials, finals, BOUNDS.get(measure, SKILLS))
    untrained = next((f for f in finalists if f.role == "untrained"), None)
    candidate = best_of(finalists, finals, "searched") if done else None
    uniform = best_of(finalists, finals, "uniform") if done else None
    held_out = [task for t in (*finals, *tests) for task in t.notes.get("tasks", {}).values()]
    classifies = ["accuracy" in task for task in held_out]
    measure = measure or ("accuracy" if all(classifies) else "skill")
    known = [f for f in (candidate, uniform, untrained) if f is not None]
    tables = measure_tables(tests, known, measure) if done else {}
    best = exported(candidate, uniform, untrained, finals) if done else None
    reference = max((f for f in (uniform, untrained) if f is not None), key=rank, default=None)
    if best is not None and best.role != "searched":
        # The mean of the other reference may be higher, but by less than the standard error.
        reference = best
    # An own loop may have no test tasks; then its finalists are compared on the validation tasks.
    alone = done and measure == "score" and not tables
    compared = measure_tables(finals, known, measure) if alone else tables
    difference = _difference(compared, reference, measure)
    trained = candidate if best is None or best.role == "untrained" else best
    return Summary(
        name=name,
        state="complete" if done else "running",
        trials={
            state: sum(t.state == state for t in trials)
            for state in ("complete", "pruned", "failed", "running")
        },
        lanes=records.search.notes.get("lanes"),
        occupancy=occupancy((records.search, records.final)),
        top=ranked[:top],
        finalists=sorted(finalists, key=lambda f: -rank(f)),
        best=best,
        candidate=candidate,
        uniform=uniform,
        untrained=untrained,
        reference=reference,
        verdict=_verdict(difference, best, 0.0 if measure == "score" else NEGLIGIBLE),
        measure=measure,
        difference=difference,
        test={name: table.interval(BOUNDS[measure]) for name, table in tables.items()},
        figures=dict(records.search.notes.get("figures", {})),
        null_losses=dict(records.search.notes.get("null_losses", {})),
        advice=list(records.search.notes.get("advice", {}).values()),
        stopped_early=reason_for_stop(records.search),
        failures=Counter(t.notes.get("reason", "") for t in trials if t.state == "failed"),
        pooled=pooled_comparisons(tests, trained),
        returns=returns_of(tests, known) if done else (),
        share="" if measure == "score" else _share(held_out),
    )


def summary_of(name: str, home: Home) -> Summary:
    """The summary of the search `name`; raises InputError if this home has none."""
    records = records_of(name, home)
    from orchestrator.results.explanation.explanation import explained  # it imports this module
    from orchestrator.results.liveness import with_driver  # as does this one

    summary = with_driver(replace(summarise(name, records), home=home), driver_of(home, name))
    folder = home.search(name)
    return explained(summary, lambda: plan_of(load_config(home.config(name))), records, folder)


def records_of(name: str, home: Home) -> SearchRecords:
    """The records of the search `name`; raises InputError if this home has none."""
    records = read_records(name, home)
    if records is None or not identity.belongs_to(home, name, records.search):
        raise home.unknown(name, identity.other_storage_hint(home, name))
    return records


def _difference(
    tables: Mapping[str, Measured], reference: Finalist | None, measure: str
) -> Interval | None:
    """The best candidate minus the better reference, on the test tasks."""
    if reference is None or not {"candidate", TESTED[reference.role]} <= tables.keys():
        return None
    gain = tables["candidate"].minus(tables[TESTED[reference.role]])
    return gain.interval(difference_bounds(measure))


def _verdict(
    difference: Interval | None, best: Finalist | None, negligible: float
) -> Verdict | None:
    if difference is None:
        return None
    on_test = verdict(difference, negligible)
    # On the validation tasks the candidate was not clearly better than the reference, which is
    # exported. A better result on the test tasks contradicts that, so the verdict is open.
    contradicts = on_test == "better" and best is not None and best.role != "searched"
    return "undecided" if contradicts else on_test


def occupancy(records: Sequence[StudyRecord]) -> float:
    """Share of the lane steps that trained a trial; NaN before the first step."""
    steps = [record.notes.get("steps", (0, 0)) for record in records]
    capacity = sum(step[1] for step in steps)
    return sum(step[0] for step in steps) / capacity if capacity else math.nan


def _share(held_out: Sequence[Mapping[str, float]]) -> str:
    """The whole of which skill is a share: a variance, or the gap from chance to perfect.

    held_out: the metrics of each held-out task.
    """
    if any("return_0" in task for task in held_out):
        return "the gap between random actions and the reference"
    classifies = ["accuracy" in task for task in held_out]
    if all(classifies):
        return ""
    return "the gap between chance and perfect" if any(classifies) else "the variance explained"


def _finalist(finalist: Finalist | None) -> dict[str, Any] | None:
    if finalist is None:
        return None
    reference = None if finalist.role == "searched" else finalist.role
    data = vars(finalist) | {"score": vars(finalist.score), "reference": reference}
    del data["role"]
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
