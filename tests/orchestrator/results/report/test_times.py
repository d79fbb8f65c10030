"""Where the time went, on records whose times are given."""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.record.starts import note_sending, note_start, starts_of
from orchestrator.results.report.figures.times import time_use, times
from tests.orchestrator.results.report.made import toy


@dataclass
class Notes:
    notes: dict[str, Any] = field(default_factory=dict)

    def note(self, key: str, value: Any) -> None:
        self.notes[key] = value


def test_each_start_is_noted():
    record = Notes()
    for began in (1.0, 2.0):
        note_start(record, began)  # type: ignore[arg-type]
    first, second = starts_of(record)  # type: ignore[arg-type]
    assert (first.began, second.began) == (1.0, 2.0)
    assert first.ready <= second.ready


def test_without_starts_nothing_is_known():
    assert time_use(toy()) is None


def test_phases_and_pauses_add_up_to_the_wall_clock():
    found = toy()
    trials = found.records.search.trials()
    begin = min(t.started for t in trials)
    last = max(t.ended for t in found.records.test.trials())
    # A first process that was killed at once, two hours before.
    starts = [[begin - 7210, begin - 7205], [begin - 4, begin]]
    found.records.search.note("starts", starts)
    use = time_use(found)
    assert use is not None
    assert use.n_starts == 2
    assert use.clock["start-up"] == 9
    assert 7200 < use.pauses < 7202
    total = sum(use.clock.values()) + use.pauses
    assert abs(total - (last - starts[0][0])) < 1e-3
    assert use.lane_steps["used"] > 0
    # The toys' clock: a step of a lane takes a second, and scoring one for each of two tasks.
    trained = [t for r in (found.records.search, found.records.final) for t in r.trials()]
    assert use.workers["training"] >= sum(t.notes["lane_seconds"] for t in trained)
    assert use.workers["adaptation and scoring"] >= 2 * len(trained)


def test_the_time_of_sending_adds_up_over_the_processes_of_a_search():
    found = toy()
    begin = min(t.started for t in found.records.search.trials())
    found.records.search.note("starts", [[begin - 4, begin]])
    assert any("is not recorded" in note for note in times(found).notes)
    note_sending(found.records.search, 2.0, 30)
    note_sending(found.records.search, 1.5, 4)
    assert any("3.5 s. Runs that were left" in note for note in times(found).notes)
    assert any("ended: 4." in note for note in times(found).notes)
