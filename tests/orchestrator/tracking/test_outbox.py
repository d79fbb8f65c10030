import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking.events import RunEvent, by_run, clean
from orchestrator.tracking.mlflow_runs import OutboxRecorder
from orchestrator.tracking.sending.outbox import Outbox
from tests.orchestrator import records


def ids(outbox: Outbox) -> list[str]:
    found = []
    while (pending := outbox.next(timeout=0)) is not None:
        found += [event["id"] for event in pending.events]
        outbox.sent(pending)
    return found


def test_events_come_in_order_and_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.append({"id": "a"})
    assert outbox.append({"id": "b", "score": float("nan")})
    assert not outbox.append({"id": "a"})
    assert outbox.backlog() == 2
    assert ids(outbox) == ["a", "b"]
    assert outbox.backlog() == 0
    assert outbox.drained(timeout=0)


def test_several_events_can_be_had_at_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for id in "abcde":
        outbox.append({"id": id})
    pending = outbox.next(timeout=0, at_most=3)
    assert pending is not None
    assert [event["id"] for event in pending.events] == ["a", "b", "c"]
    outbox.count_sent(2)
    assert outbox.backlog() == 3
    assert outbox.next(timeout=0, at_most=2) is not None  # as after a failure
    assert outbox.backlog() == 5
    outbox.sent(pending)
    assert outbox.backlog() == 2
    assert ids(Outbox(tmp_path)) == ["d", "e"]


def test_events_that_are_held_come_after_the_first_report_of_a_searched_trial(
    tmp_path: Path,
) -> None:
    outbox = Outbox(tmp_path)
    made = OutboxRecorder(outbox)
    made.send_after_first_report()
    records.started(made)
    made.trial_started(records.spec(0), time=records.START)
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(outbox.next(timeout=0)))
    reader.start()
    reader.join(timeout=0.3)
    assert reader.is_alive()
    made.reported(records.report(0, 10))
    reader.join(timeout=60)
    assert found[0] is not None
    made.send_after_first_report()
    assert not made.drain(timeout=0)  # whoever waits for all of them ends it too
    assert outbox.next(timeout=0) is not None


def test_the_runs_that_are_left_are_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for id, key in ("1a", "1b", "2a", "1c", "3b"):
        outbox.append({"id": id + key, "key": key})
    assert outbox.runs_left() == 3  # a, b and c
    pending = outbox.next(timeout=0, at_most=4)
    assert pending is not None
    outbox.count_sent(2)  # both events of a
    assert outbox.runs_left() == 2
    outbox.sent(pending)  # but the last one of b
    assert outbox.runs_left() == Outbox(tmp_path).runs_left() == 1
    outbox.rewind()
    assert outbox.runs_left() == 3


def test_a_process_that_was_started_again_goes_on_where_the_last_one_stopped(
    tmp_path: Path,
) -> None:
    first = Outbox(tmp_path)
    for name in "abc":
        first.append({"id": name})
    first.sent(first.next(timeout=0))
    first.close()
    second = Outbox(tmp_path)
    assert not second.append({"id": "a"})
    assert second.append({"id": "d"})
    assert second.backlog() == 3
    assert ids(second) == ["b", "c", "d"]


@pytest.mark.parametrize("tail", [b'{"id": "to', b"\x00\x00", b'{"id": "torn"}'])
def test_a_last_line_torn_by_a_crash_is_dropped(tmp_path: Path, tail: bytes) -> None:
    Outbox(tmp_path).append({"id": "a"})
    with (tmp_path / "outbox.jsonl").open("ab") as file:
        file.write(tail)
    outbox = Outbox(tmp_path)
    outbox.append({"id": "b"})
    assert ids(outbox) == ["a", "b"]
    assert (tmp_path / "outbox.jsonl").read_bytes().count(b"\n") == 2


def test_an_unreadable_line_does_not_hide_those_after_it(tmp_path: Path) -> None:
    (tmp_path / "outbox.jsonl").write_bytes(b'{"id":"a"}\n\x00\x00\n{"id":"b"}\n\x00\n')
    outbox = Outbox(tmp_path)
    assert ids(outbox) == ["a", "b"]
    outbox.append({"id": "c"})
    assert ids(outbox) == ["c"]
    assert outbox.drained(timeout=0)


def test_a_line_that_is_no_event_is_set_aside_and_said_once(tmp_path: Path, caplog: Any) -> None:
    lines = [b'{"id":"a"}', b"[1]", b"7", b"{}", b'{"id":3}', b"\x00", b'{"id":"b"}', b"null"]
    (tmp_path / "outbox.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    outbox = Outbox(tmp_path)
    assert ids(outbox) == ["a", "b"]
    assert outbox.next(timeout=0) is None
    assert outbox.drained(timeout=0)
    kept = (tmp_path / "outbox.rejected.jsonl").read_bytes().splitlines()
    assert kept == [*lines[1:6], lines[7]]
    assert outbox.rejected == len(kept) == caplog.text.count("outbox_rejects")
    outbox.rewind()
    assert ids(outbox) == ["a", "b"]
    again = Outbox(tmp_path)
    again.rewind()
    assert ids(again) == ["a", "b"]
    assert again.rejected == 0
    assert len(kept) == caplog.text.count("outbox_rejects")


def test_what_was_sent_is_not_sent_again_though_a_line_after_it_was_set_aside(
    tmp_path: Path,
) -> None:
    (tmp_path / "outbox.jsonl").write_bytes(b'{"id":"a"}\n7\n')
    outbox = Outbox(tmp_path)
    pending = outbox.next(timeout=0, at_most=2)
    assert pending is not None
    outbox.sent(pending)
    assert ids(Outbox(tmp_path)) == []


@pytest.mark.parametrize("mark", ["", "7", "-3", "99999", "nonsense"])
def test_a_mark_that_fits_no_event_has_all_sent_again(tmp_path: Path, mark: str) -> None:
    first = Outbox(tmp_path)
    first.append({"id": "a"})
    first.sent(first.next(timeout=0))
    (tmp_path / "outbox.sent").write_text(mark)
    assert ids(Outbox(tmp_path)) == ["a"]


def test_a_rewound_outbox_tells_everything_anew(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append({"id": "a"})
    assert not outbox.rewind()
    assert ids(outbox) == ["a"]
    assert outbox.rewind()
    assert outbox.backlog() == 1
    assert ids(outbox) == ["a"]


def test_closing_wakes_whoever_waits(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(outbox.next(timeout=60)))
    waiting.start()
    outbox.close()
    waiting.join(timeout=5)
    assert found == [None]


def test_a_rest_ends_when_somebody_waits_for_the_record(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append({"id": "a"})
    rested = threading.Thread(target=outbox.pause, args=(60,))
    rested.start()
    rested.join(timeout=0.2)
    assert rested.is_alive()
    assert not outbox.drained(timeout=0)
    rested.join(timeout=10)
    assert not rested.is_alive()
    outbox.pause(60)  # nor does another one begin


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from orchestrator.tracking.sending.outbox import Outbox
        outbox = Outbox(Path(sys.argv[1]))
        for n in range(10**9):
            outbox.append({"id": str(n)})
            print(n, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        seen = [child.stdout.readline() for _ in range(500)]
        os.kill(child.pid, signal.SIGKILL)
        last = int((seen + child.stdout.read().split())[-1])
    found = ids(Outbox(tmp_path))
    assert found == [str(n) for n in range(len(found))]
    assert len(found) > last


def test_recording_a_search_again_adds_nothing(tmp_path: Path) -> None:
    recorder = OutboxRecorder(Outbox(tmp_path))
    records.whole(recorder)
    before = recorder.backlog()
    records.whole(recorder)
    again = OutboxRecorder(Outbox(tmp_path))
    records.whole(again)
    assert again.backlog() == recorder.backlog() == before
    assert not recorder.drain(timeout=0)


def test_events_are_told_run_by_run_and_no_more_at_once_than_mlflow_takes() -> None:
    def event(id: str, key: str, n: int) -> RunEvent:
        metrics = {f"m{i}": 0.0 for i in range(n)}
        common = {"search": "s", "experiment": "e", "name": key, "time": 0.0}
        return RunEvent(
            id=id,
            key=key,
            kind="trial",
            metrics=metrics,
            params={"p": "1"},
            tags={"t": "1"},
            **common,
        )

    events = [event("1", "a", 498), event("2", "b", 5), event("3", "a", 498), event("4", "a", 0)]
    batches = [[one.id for one in batch] for batch in by_run(events)]
    assert batches == [["1", "3"], ["4"], ["2"]]
    assert by_run([event("1", "a", 2000)]) == [[event("1", "a", 2000)]]  # which MLflow will reject


def test_nothing_is_recorded_before_the_search_has_a_name(tmp_path: Path) -> None:
    recorder = OutboxRecorder(Outbox(tmp_path))
    with pytest.raises(RuntimeError, match="search_started"):
        recorder.reported(records.report(0, 10))


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("val/greek/accuracy", "val/greek/accuracy"),
        ("lambda/C++", "lambda/C_2b_2b"),
        ("val//../x/accuracy", "val/x/accuracy"),
        ("val/日本語/f1", "val/日本語/f1"),
    ],
)
def test_names_become_what_mlflow_accepts(name: str, cleaned: str) -> None:
    assert clean(name) == cleaned
