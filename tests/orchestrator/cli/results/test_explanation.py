"""What `fewtune show --why` prints."""

import io

from rich.console import Console

from orchestrator.cli.results.explanation import why
from orchestrator.results.explanation.checks import HealthCheck
from orchestrator.results.explanation.explanation import Explanation, TaskEffect
from orchestrator.search.finals.intervals import Interval


def printed(explanation: Explanation) -> str:
    console = Console(file=io.StringIO(), width=120)
    for part in why(explanation):
        console.print(part)
    return console.file.getvalue()


HELPS, HARMS = Interval(0.021, 0.012, 0.03), Interval(-0.014, -0.02, -0.008)
FOUND = Explanation(
    effects=[
        TaskEffect("latin", ("latin",), HELPS, "helps", 0.6, (0.4, 0.8), {"greek [new]": HELPS}),
        TaskEffect("group b", ("x", "y"), HARMS, "harms", 0.0, (0.0, 0.1), {"greek [new]": HARMS}),
    ],
    importances={"lambda/latin": 0.75, "lr/outer": 0.25},
    checks=[
        HealthCheck("baseline beaten", True, "by far."),
        HealthCheck("search space wide enough", False, "it is not."),
        HealthCheck("early stopping consistent", None, "too few trials."),
    ],
)


def test_effects_are_in_points_with_interval_verdict_and_weights() -> None:
    lines = printed(FOUND).splitlines()
    (latin,) = [line for line in lines if "latin" in line and "helps" in line]
    for cell in ("+2.1 (+1.2 to +3.0)", "0.60", "0.40 to 0.80"):
        assert cell in latin
    (group,) = [line for line in lines if "group b (2 tasks)" in line]
    assert "-1.4 (-2.0 to -0.8)" in group
    (greek,) = [line for line in lines if "greek [new]" in line]
    assert "+2.1*" in greek
    assert "-1.4*" in greek


def test_importances_and_checks_follow() -> None:
    text = printed(FOUND)
    assert "75 %" in text
    assert "passed baseline beaten: by far." in text
    assert "warning search space wide enough: it is not." in text
    assert "unknown early stopping consistent" in text


def test_what_is_not_there_is_not_shown() -> None:
    text = printed(Explanation([], {}, FOUND.checks[:1]))
    assert "not searched" in text
    assert "importance" not in text
