"""Submission of a search as a job to a running Ray cluster, through Ray's Jobs API.

The cluster gets the configuration file, which is the only file in the job's working directory, the
command line, and the environment variables in `PASSED_ON` that are set here.

Secrets: everyone with the cluster's token can read a job's entrypoint, metadata and environment
variables. The entrypoint is also in the head's process list, and the variables are in the nodes'
logs. So a value with a password is refused, and so is a variable with parameters: `?sig=...` of a
signed URL is a password too. Set passwords in the environment of `ray start` on the head, which the
driver inherits.

States: after the head is lost, its job may be listed as RUNNING for ever. The study is the source
of truth; it is always safe to call `stop` and to submit again with `resume`.
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

from fewshot.errors.inputs import ErrorDetail, InputError, input_error
from orchestrator.config.passwords import has_password, redacted, without_parameters

logger = logging.getLogger(__name__)

State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in the order of `ray job`
PASSED_ON = ("FEWTUNE_DATA", "MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
STOP_SECONDS = 60  # the driver must release its workers; Ray's default of 3 s is too short

_NO_AGENT = "No available agent to submit job"
_WAITS = (2, 4, 8, 16, 30)  # seconds

_PROGRAM: Sequence[str] = ("python", "-m", "orchestrator.cli")
_LABEL = "fewtune.search"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AUTHENTICATION = (
    "Set RAY_AUTH_MODE=token, and put the cluster's token into RAY_AUTH_TOKEN, into the file that "
    "RAY_AUTH_TOKEN_PATH names, or into ~/.ray/auth_token."
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
    """Start the search `name` on the cluster's head; returns the submission id `<name>-<n>`.

    `n` counts the submissions of that name, and an id is never used twice. Raises InputError if the
    latest submission is live. `home` and the paths in the configuration are paths on the cluster.
    """
    _check_name(name)
    if not config.is_file():
        raise input_error("CONFIG", "must be a file.", str(config))
    _refuse_passwords(config, home, overrides)
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
            # No entrypoint resources: with any, the driver would not run on the head, and would
            # wait for a node that nobody starts.
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
    """Submit a job; returns its id. Retries, because a new head has no job agent at first."""
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
    """The driver's log of the latest submission, in pieces; with `follow`, until it ends."""
    with _answered(where := _where(address)):
        client = _client(where)
        submission = _latest(client, name, where).submission_id
        if not follow:
            return iter([client.get_job_logs(submission)])
    return _followed(client, submission, where)


def stop(name: str, *, address: str | None = None) -> Submission:
    """Ask the latest submission to stop; returns its state before the stop.

    The driver gets SIGINT, and is killed if it has not ended after `STOP_SECONDS`. Does nothing if
    the submission has ended.
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
    """Environment of the job: the set variables of `PASSED_ON`, and how Ray stops the job."""
    passed = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    # Ray reads these two in the job supervisor, which gets the job's own variables.
    return passed | {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
    }


def _where(address: str | None) -> str:
    """The given address, else the address that `ray job` would use.

    In Ray, its environment variables override a given address; here the given address wins.
    """
    if not address:
        usual = (os.environ.get(variable) for variable in ADDRESS_VARIABLES)
        return next((where for where in usual if where), DEFAULT_ADDRESS)
    # Ray would treat a bare host and port as the address of a different service and wait 40 s.
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
    """Turn errors of the cluster or of the connection into an InputError about `--address`."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError, RayError

    shown = redacted(where)
    try:
        yield
    except InputError:
        raise
    except AuthenticationError:
        rule = "has a Ray cluster that rejected the token, or no token was sent."
        raise input_error("--address", rule, shown, _AUTHENTICATION) from None
    except ConnectionError:
        raise input_error(
            "--address",
            "has no Ray cluster that answers.",
            shown,
            "Start one, or reach its dashboard through `ray dashboard cluster.yaml`.",
        ) from None
    # Show Ray's message for any other error; the exceptions of `requests` are OSErrors.
    except (OSError, ClientError, RayError, RuntimeError, ValueError, KeyError) as error:
        # The last line of a traceback has the error.
        message = redacted(str(error).strip().rpartition("\n")[2])
        rule = "has no Ray jobs server that accepts this request."
        raise input_error("--address", rule, shown, f"Its answer: {message}") from None


def _submissions(client: Any, name: str) -> list[Any]:
    """All submissions of the search on the cluster, oldest first."""
    jobs = (job for job in client.list_jobs() if (job.metadata or {}).get(_LABEL) == name)
    return sorted((job for job in jobs if job.type == "SUBMISSION"), key=_number)


def _number(job: Any) -> int:
    return int(job.submission_id.rpartition("-")[2])


def _latest(client: Any, name: str, where: str) -> Any:
    submissions = _submissions(client, name)
    if not submissions:
        remedy = f"No search of that name was submitted to {redacted(where)}."
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
    """Ray's asynchronous log iterator as an ordinary iterator."""
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


def _refuse_passwords(config: Path, home: str, overrides: Sequence[str]) -> None:
    """Raise InputError with all places from which a password would get into the job."""
    said = [("--home", home), *(("--set", override) for override in overrides)]
    details = [_password(path, redacted(value)) for path, value in said if has_password(value)]
    # Which parameter of an unknown service is a password can't be told by its name.
    variables = {name: os.environ.get(name, "") for name in PASSED_ON}
    details += [
        _password(name, without_parameters(value))
        for name, value in variables.items()
        if without_parameters(value) != value
    ]
    for number, line in enumerate(config.read_text(errors="replace").splitlines(), start=1):
        if "://" in line and has_password(line):
            details.append(_password(f"CONFIG, line {number}", redacted(line.strip())))
    if details:
        raise InputError(details)


def _password(path: str, shown: str) -> ErrorDetail:
    return ErrorDetail(
        path,
        "must not contain a password: everyone with the cluster's token could read it.",
        shown,
        "Remove it and set it on the head, in the environment of `ray start` (PGPASSWORD or "
        "~/.pgpass for PostgreSQL, MLFLOW_TRACKING_PASSWORD for MLflow).",
    )
