"""The split between the stages: how much meta-training, how much adaptation."""

from orchestrator.results.budget.stages import cheapest, figure
from orchestrator.results.report.findings import Findings
from orchestrator.results.report.parts import Part, absent


def stages(found: Findings) -> Part:
    """Scores over the steps of both stages, with their cost for a number of new tasks."""
    key, topic = "stages", "How much training, how much adaptation"
    if found.stages is None:
        name = found.summary.name
        why = f"Not measured: `fewtune report {name} --new-tasks N` scores the best finalist after "
        return absent(key, topic, f"{why}other numbers of steps, and names the cheapest.")
    table, new_tasks = found.stages
    chosen = cheapest(table.splits, new_tasks)
    split, best = chosen.split, chosen.best
    drawn = figure(table, new_tasks)
    drawn.update_layout(template="none", margin={"t": 60})
    return Part(
        key,
        topic,
        f"For {new_tasks:,} new tasks, {split.title} suffice",
        "A split is a number of meta-training steps and of adaptation steps; the cheapest within "
        "one standard error of the best is named.",
        {"": drawn},
        notes=[
            f"It has a score of {split.score:.3f}; the best split, {best.title}, {best.score:.3f}.",
            "Nothing was trained for this; scores at earlier rungs are those of the search.",
        ],
    )
