"""The same search as a job on a running Ray cluster, by way of Ray's Jobs API.

What crosses over: the configuration file alone in the job's working directory, the command line,
and the environment variables of `PASSED_ON` that are set here.

Secrets. Whoever holds the cluster's token can read a job's entrypoint, metadata and environment
variables; the entrypoint is also in the head's process list, the variables in the nodes' logs. So
nothing with a password in it is passed on by any of these ways: it is refused, and belongs into
the environment of `ray start` on the head, which the driver inherits. The configuration file is
passed on as it is.

Trust in states: a job that a lost head was running can be listed as RUNNING for ever. The study is
the truth; `stop` and submitting again with `resume` is always safe.
"""

import asyncio
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fewshot.errors.inputs import InputError, input_error
from orchestrator.config.passwords import has_password, redacted

logger = logging.getLogger(__name__)

State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in the order `ray job` has
PASSED_ON = ("FEWTUNE_DATA", "MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
STOP_SECONDS = 60  # the driver has to let go of its workers; Ray's own 3 s would kill it at that

_NO_AGENT = "No available agent to submit job"
_WAITS = (2, 4, 8, 16, 30)  # seconds

_PROGRAM: Sequence[str] = ("python", "-m", "orchestrator.cli")
_LABEL = "fewtune.search"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AUTHENTICATION = (
    "Set RAY_AUTH_MODE=token, and give the cluster's token in RAY_AUTH_TOKEN, in a file named by "
    "RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One run of a search as a job. Times are seconds since 1970."""

    submission_id: str
    state: State
    message: str
    started: float | None
    ended: float | None

    @property
    def live(self) -> bool:
        return self.state in ("PENDING", "RUNNING")


def submit(
    config: Path,
    *,
    name: str,
    home: str,
    address: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> str:
    """Start the search `name` on the cluster's head; its submission id, `<name>-<n>`.

    `n` counts the submissions of that name, and an id is never used twice. While the latest one
    is live there can't be another. `home` and paths inside the configuration are the cluster's.
    """
    _check_name(name)
    if not config.is_file():
        raise input_error("CONFIG", "is no file.", str(config))
    for path, value in (("--home", home), *(("--set", override) for override in overrides)):
        _refuse_password(path, value)
    variables = _variables()
    with _answered(where := _where(address)):
        client = _client(where)
        earlier = _submissions(client, name)
        if earlier and (latest := _snapshot(earlier[-1])).live:
            raise input_error(
                "NAME",
                f"is the name of a search that is {latest.state.lower()} on this cluster.",
                latest.submission_id,
                f"Stop it first: `fewtune stop {name}`.",
            )
        number = _number(earlier[-1]) + 1 if earlier else 0
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(config, Path(folder) / "config.yaml")
            # No entrypoint resources: with any, the driver would leave the head, and wait there
            # for a node that nobody starts.
            submission = _accepted(
                client,
                entrypoint=_entrypoint(home, overrides, resume),
                submission_id=f"{name}-{number}",
                runtime_env={"working_dir": folder, "env_vars": variables},
                metadata={_LABEL: name},
            )
    logger.info("job_submitted id=%s address=%s", submission, redacted(where))
    return submission


def _accepted(client: Any, **job: Any) -> str:
    """The id of a submitted job. A head of a few seconds has no agent yet that would run it."""
    for wait in _WAITS:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if _NO_AGENT not in str(error):
                raise
            logger.info("no_agent_yet retry_in=%d", wait)
            time.sleep(wait)
    return str(client.submit_job(**job))


def status(name: str, *, address: str | None = None) -> Submission:
    """The latest submission of the search."""
    with _answered(where := _where(address)):
        return _snapshot(_latest(_client(where), name, where))


def logs(name: str, *, address: str | None = None, follow: bool = False) -> Iterator[str]:
    """What the driver of the latest submission wrote, in pieces; `follow` waits for its end."""
    with _answered(where := _where(address)):
        client = _client(where)
        submission = _latest(client, name, where).submission_id
        if not follow:
            return iter([client.get_job_logs(submission)])
    return _followed(client, submission, where)


def stop(name: str, *, address: str | None = None) -> Submission:
    """Ask the latest submission to stop; how it stood when it was asked.

    The driver gets SIGINT, and is killed if it has not ended `STOP_SECONDS` later. Of a
    submission that has ended already, nothing is asked.
    """
    with _answered(where := _where(address)):
        client = _client(where)
        submission = _snapshot(_latest(client, name, where))
        if submission.live:
            client.stop_job(submission.submission_id)
            logger.info("job_stopping id=%s", submission.submission_id)
        return submission


def _entrypoint(home: str, overrides: Sequence[str], resume: bool) -> str:
    """The shell command that the head runs in the working directory."""
    sets = [word for override in overrides for word in ("--set", override)]
    command = [*_PROGRAM, "search", "config.yaml", "--executor", "ray", "--home", home, *sets]
    return shlex.join([*command, "--resume"] if resume else command)


def _variables() -> dict[str, str]:
    """Environment of the job: those of `PASSED_ON` that are set here, and how it is stopped."""
    passed = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    for name, value in passed.items():
        _refuse_password(name, value)
    # Ray reads these two in the job supervisor, which gets the job's own variables.
    return passed | {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }


def _where(address: str | None) -> str:
    """The address given, or else the one that `ray job` would use.

    Ray lets its variables overrule the address that is given; here what is given counts.
    """
    if not address:
        usual = (os.environ.get(variable) for variable in ADDRESS_VARIABLES)
        return next((where for where in usual if where), DEFAULT_ADDRESS)
    # Ray would take a bare host and port for another service's, and wait for it for 40 s.
    if address != "auto" and "://" not in address:
        rule = "must be the URL of the cluster's dashboard."
        raise input_error("--address", rule, address, f"Write it like {DEFAULT_ADDRESS}.")
    return address


def _client(where: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        return JobSubmissionClient(where)
    finally:
        os.environ.update(hidden)


@contextmanager
def _answered(where: str) -> Iterator[None]:
    """Turn what the cluster refuses, or can't be asked, into a fault of `--address`."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError, RayError

    found = redacted(where)
    try:
        yield
    except InputError:
        raise
    except AuthenticationError:
        wrong = "has a cluster that does not take the token that was sent, or none was sent."
        raise input_error("--address", wrong, found, _AUTHENTICATION) from None
    except ConnectionError:
        raise input_error(
            "--address",
            "has no Ray cluster that answers.",
            found,
            "Start one, or reach its dashboard through `ray dashboard cluster.yaml`.",
        ) from None
    # Ray's own words for any other refusal; requests' exceptions are OSErrors.
    except (OSError, ClientError, RayError, RuntimeError, ValueError, KeyError) as error:
        said = redacted(str(error).strip().rpartition("\n")[2])  # of a traceback, what happened
        rule = "has no Ray jobs server that understands us."
        raise input_error("--address", rule, found, f"It said: {said}") from None


def _submissions(client: Any, name: str) -> list[Any]:
    """Every submission of the search that the cluster knows, oldest first."""
    mine = (job for job in client.list_jobs() if (job.metadata or {}).get(_LABEL) == name)
    return sorted((job for job in mine if job.type == "SUBMISSION"), key=_number)


def _number(job: Any) -> int:
    return int(job.submission_id.rpartition("-")[2])


def _latest(client: Any, name: str, where: str) -> Any:
    submissions = _submissions(client, name)
    if not submissions:
        remedy = f"Nothing of that name was submitted to {redacted(where)}."
        raise input_error("NAME", "must be the name of a submitted search.", name, remedy)
    return submissions[-1]


def _snapshot(job: Any) -> Submission:
    return Submission(
        submission_id=job.submission_id,
        state=cast(State, str(job.status)),
        message=job.message or "",
        started=None if job.start_time is None else job.start_time / 1000,
        ended=None if job.end_time is None else job.end_time / 1000,
    )


def _followed(client: Any, submission: str, where: str) -> Iterator[str]:
    """Ray's asynchronous tail, as an ordinary iterator."""
    with _answered(where), asyncio.Runner() as runner:
        tail = client.tail_job_logs(submission)

        async def following() -> str | None:
            return cast(str | None, await anext(tail, None))

        try:
            while (piece := runner.run(following())) is not None:
                yield piece
        finally:
            runner.run(tail.aclose())


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):  # it becomes part of a file name on the head, and of URLs
        rule = "must be letters, digits, '.', '_' and '-', and begin with a letter or digit."
        raise input_error("NAME", rule, name)


def _refuse_password(path: str, value: str) -> None:
    if has_password(value):
        raise input_error(
            path,
            "must have no password in it: everyone with the cluster's token could read it.",
            redacted(value),
            "Leave the password out and set it on the head, in the environment of `ray start` "
            "(PGPASSWORD or ~/.pgpass for PostgreSQL, MLFLOW_TRACKING_PASSWORD for MLflow).",
        )
