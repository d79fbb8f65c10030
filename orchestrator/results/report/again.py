"""What failed, whether the result can be trusted, and all that is needed to do it again."""

import shlex
from collections import Counter

from orchestrator.config.plan import derived_seed
from orchestrator.record.starts import versions, versions_of
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent, count
from orchestrator.search.decisions.own_trials import FROM
from orchestrator.search.failures import kind_of

_MARKS = {True: "passed", False: "warning", None: "unknown"}
_KINDS = 20  # rows of the table of failures
_LONGEST = 300  # characters of a reason
_STAGES = {"search": "search", "final": "retraining", "test": "tests"}


def failures(found: Findings) -> Part:
    """The failed trials of all stages with their reasons, grouped."""
    key, topic = "failures", "Failures"
    failed = [
        (stage, trial.number, str(trial.notes.get("reason", "")) or "no reason is recorded")
        for stage in _STAGES
        for trial in getattr(found.records, stage).trials()
        if trial.state == "failed"
    ]
    pruned = found.summary.trials["pruned"]
    notes = []
    if pruned:
        was = "was" if pruned == 1 else "were"
        notes.append(f"{count(pruned, 'trial')} {was} stopped early (pruned); that is no failure.")
    if not failed:
        return Part(key, topic, "No trial failed", notes=notes)
    counts = Counter((stage, kind_of(reason)) for stage, _, reason in failed)
    table = [("stage", "trials", "numbers", "reason")]
    for (stage, kind), n in counts.most_common(_KINDS):
        own = [(number, r) for s, number, r in failed if (s, kind_of(r)) == (stage, kind)]
        numbers = ", ".join(str(number) for number, _ in own[:8]) + (", …" if n > 8 else "")
        table.append((_STAGES[stage], str(n), numbers, own[0][1][:_LONGEST]))
    notes.append("Tracebacks are in MLflow, in the description of each run.")
    if len(counts) > _KINDS:
        notes.append(f"{len(counts) - _KINDS} rarer kinds of failures are not listed.")
    return Part(
        key,
        topic,
        f"{count(len(failed), 'trial')} failed",
        "One row for each kind of failure; reasons that differ in numbers only are one kind.",
        table=table,
        notes=notes,
    )


def checks(found: Findings) -> Part:
    """The health checks of the explanation."""
    key, topic = "checks", "Can the result be trusted?"
    done = found.summary.explanation.checks
    if not done:
        return absent(key, topic, "There are no health checks.")
    bad = [check.name for check in done if check.passed is False]
    title = f"{count(len(bad), 'health check')} of {len(done)} warn" if bad else "No check warns"
    if len(bad) == 1:
        title += "s"
    table = [("check", "result", "finding")]
    table += [(check.name, _MARKS[check.passed], check.text) for check in done]
    advice = [text for text in found.summary.advice if not any(text in c.text for c in done)]
    caption = "A warning names what to change before you rely on the result."
    return Part(key, topic, title, caption, table=table, notes=advice)


def again(found: Findings) -> Part:
    """The command, the config, the versions and the seeds."""
    name, notes = found.summary.name, found.records.search.notes
    command = ["fewtune", "search", "config.yaml", "--home", "NEW_FOLDER"]
    earlier = notes.get(FROM)
    if earlier:
        command += ["--from", str(earlier["search"])]
    seeds = [derived_seed(found.plan.seed, "final", j) for j in range(found.plan.seeds)]
    recorded = versions_of(found.records.search)
    told = ", ".join(f"{package} {number}" for package, number in (recorded or versions()).items())
    which = "of the search" if recorded else "of this report; those of the search are not recorded"
    table = [
        ("what", "value"),
        ("seed of the search", f"{found.plan.seed}; the seeds of its trials derive from it"),
        ("seeds of each finalist", ", ".join(map(str, seeds))),
        ("recipe", found.plan.recipe.fingerprint),
        ("lanes of a worker", str(found.summary.lanes or "not known")),
        ("folder of relative paths", str(notes.get("folder", "not recorded"))),
        (f"versions {which}", told),
    ]
    blocks = {"Command": shlex.join(command), "config.yaml": found.config_text}
    return Part(
        "again",
        "Do it again",
        f"How to run {name} again",
        "Save the config as config.yaml in the folder of relative paths, and run the command; the "
        "same versions, seeds, lanes and kind of machine give the same trials up to rounding.",
        table=table,
        blocks=blocks,
    )
