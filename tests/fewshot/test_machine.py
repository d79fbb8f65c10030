"""How much memory there is left, with the limits of containers."""

import pytest

from fewshot import machine
from fewshot.errors.inputs import InputError


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (
            {
                "memory.max": "1000\n",
                "memory.current": "700",
                "memory.stat": "anon 1\ninactive_file 200",
            },
            500,
        ),
        ({"memory.max": "max\n", "memory.current": "700", "memory.stat": "anon 1"}, float("inf")),
        (
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "400",
                "memory.stat": "total_inactive_file 100",
            },
            700,
        ),
        ({}, float("inf")),
    ],
    ids=["second version", "no limit", "first version", "no group"],
)
def test_a_group_leaves_what_its_limit_and_pages_of_files_leave(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert machine._left_of(tmp_path) == left


def test_this_machine_has_some_left():
    assert machine.available_memory() > 1e6
    machine.check_room(1.0, "here", "for a byte", "")
    with pytest.raises(InputError, match=r"here: needs about .* GB of memory for it, and .* left"):
        machine.check_room(1e18, "here", "for it", "Buy some.")
