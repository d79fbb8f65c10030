"""What a failure of a user's part is, and what is none."""

import errno
import os

import pytest

from fewshot.errors.parts import Failure
from trials.lanes.passes import call_or_failure


def raising(number: int) -> None:
    raise OSError(number, os.strerror(number), "/some/file")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_can_not_be_written_fails_no_trial(number):
    with pytest.raises(OSError, match="/some/file"):
        call_or_failure(lambda: raising(number))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ECONNREFUSED])
def test_other_errors_of_the_system_fail_the_trial(number):
    assert isinstance(call_or_failure(lambda: raising(number)), Failure)
