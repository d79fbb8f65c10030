import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import pytest

from fewshot.errors.inputs import InputError
from orchestrator.executors import jobs

pytest_plugins = ["tests.orchestrator.token_cluster"]

# Stands in for `python -m orchestrator.cli`. It shows what it got, and then does what the
# configuration says.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

task = Path("config.yaml").read_text()
names = ("FEWTUNE_DATA", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE")
env = {name: os.environ.get(name) for name in names}
print(json.dumps({"words": sys.argv[1:], "files": os.listdir(), "env": env}), flush=True)
if task == "wait":
    def stop(signum, frame):
        time.sleep(4)  # longer than Ray's own patience
        print("stopped by", signal.Signals(signum).name, flush=True)
        sys.exit(0)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    print("waiting", flush=True)
    time.sleep(600)
sys.exit(3 if task == "fail" else 0)
"""


def submit_stand_in(program: list[str], env: dict[str, str], *args: Any, **kwargs: Any) -> str:
    with patch.object(jobs, "_PROGRAM", program), patch.dict("os.environ", env):
        return jobs.submit(*args, **kwargs)


def follow(name: str, address: str) -> str:
    return "".join(jobs.logs(name, address=address, follow=True))


def read(name: str, address: str) -> str:
    return "".join(jobs.logs(name, address=address))


def variables_of(submission: str, address: str) -> dict[str, str]:
    from ray.job_submission import JobSubmissionClient

    details = JobSubmissionClient(address).get_job_info(submission)
    assert details.metadata["fewtune.search"] == submission.rpartition("-")[0]
    return details.runtime_env["env_vars"]


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.3)
    return value


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "secrets.txt").write_text("stays here")
    file = tmp_path / "my search.yaml"
    file.write_text("end")
    return file


@pytest.mark.ray
class TestOnACluster:
    @pytest.fixture
    def submit(self, token_cluster, with_token) -> Callable[..., str]:
        script = token_cluster.folder / "stand_in.py"
        script.write_text(STAND_IN)

        def call(*args: Any, env: dict[str, str] | None = None, **kwargs: Any) -> str:
            program = ["python", str(script)]
            kwargs = {"address": token_cluster.address, "home": "/a home", **kwargs}
            return with_token(submit_stand_in, program, env or {}, *args, **kwargs)

        return call

    @pytest.fixture
    def ended(self, token_cluster, with_token) -> Callable[[str], Any]:
        def call(name: str) -> Any:
            def status() -> Any:
                found = with_token(jobs.status, name, address=token_cluster.address)
                return None if found.live else found

            return until(status)

        return call

    def test_a_submission_runs_the_search_with_its_configuration_alone(
        self, token_cluster, with_token, submit, ended, config
    ):
        before = time.time()
        passed = {"FEWTUNE_DATA": "/data", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
        overrides = ["trials=8", "name=it's one"]
        submission = submit(config, name="plain", overrides=overrides, resume=True, env=passed)
        assert submission == "plain-0"
        status = ended("plain")
        assert (status.submission_id, status.state) == ("plain-0", "SUCCEEDED")
        assert before - 1 < status.started < status.ended < time.time() + 1
        text = with_token(read, "plain", token_cluster.address)
        shown = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
        assert shown["words"] == [
            *("search", "config.yaml", "--executor", "ray", "--home", "/a home"),
            *("--set", "trials=8", "--set", "name=it's one", "--resume"),
        ]
        assert shown["files"] == ["config.yaml"]
        assert shown["env"] == {**passed, "RAY_AUTH_MODE": "token"}
        assert with_token(variables_of, submission, token_cluster.address) == {
            **passed,
            "RAY_JOB_STOP_SIGNAL": "SIGINT",
            "RAY_JOB_STOP_WAIT_TIME_S": str(jobs.STOP_SECONDS),
        }

    def test_ids_count_up_and_each_name_has_its_own(
        self, token_cluster, with_token, submit, ended, config
    ):
        config.write_text("fail")
        for number in range(2):
            assert submit(config, name="again") == f"again-{number}"
            status = ended("again")
            assert (status.submission_id, status.state) == (f"again-{number}", "FAILED")
            assert "exit code 3" in status.message
        # A name that is another's id is still a name of its own.
        assert submit(config, name="again-1") == "again-1-0"
        assert with_token(jobs.status, "again", address=token_cluster.address) == status

    def test_a_live_search_is_not_submitted_twice_and_stops_in_its_own_time(
        self, token_cluster, with_token, submit, ended, config
    ):
        address = token_cluster.address
        config.write_text("wait")
        submit(config, name="long")
        with pytest.raises(InputError, match=r"NAME: .*'long-0'.*fewtune stop long"):
            submit(config, name="long")
        until(lambda: "waiting" in with_token(read, "long", address))
        assert with_token(jobs.status, "long", address=address).state == "RUNNING"
        assert with_token(jobs.stop, "long", address=address).submission_id == "long-0"
        text = with_token(follow, "long", address)  # to its end
        assert "stopped by SIGINT" in text
        assert ended("long").state == "STOPPED"
        assert with_token(jobs.stop, "long", address=address).state == "STOPPED"
        config.write_text("end")
        assert submit(config, name="long") == "long-1"

    def test_an_unknown_name_is_a_fault(self, token_cluster, with_token):
        for call in (jobs.status, jobs.stop, jobs.logs):
            with pytest.raises(InputError, match=r"^NAME: .*'nobody'"):
                with_token(call, "nobody", address=token_cluster.address)

    @pytest.mark.parametrize("stranger", ["without_token", "with_another_token"])
    def test_who_has_not_the_token_is_told_how_to_give_it(
        self, request, token_cluster, stranger, config
    ):
        client = request.getfixturevalue(stranger)
        where = {"address": token_cluster.address}
        for call in (
            lambda: client(jobs.status, "plain", **where),
            lambda: client(jobs.stop, "plain", **where),
            lambda: client(jobs.logs, "plain", **where),
            lambda: client(jobs.submit, config, name="plain", home="/home", **where),
        ):
            with pytest.raises(InputError) as caught:
                call()
            (input_error,) = caught.value.details
            assert (input_error.path, input_error.found) == ("--address", token_cluster.address)
            for way in (
                "RAY_AUTH_MODE=token",
                "RAY_AUTH_TOKEN",
                "RAY_AUTH_TOKEN_PATH",
                "~/.ray/auth_token",
            ):
                assert way in input_error.remedy

    def test_the_dashboard_itself_asks_for_the_token(self, token_cluster):
        assert token_cluster.ask("/api/jobs/") == 401
        assert token_cluster.token_file.stat().st_mode & 0o777 == 0o600


class TestWithoutACluster:
    def test_an_address_where_nobody_answers_is_a_fault(self):
        with pytest.raises(InputError, match=r"^--address: .*'http://127.0.0.1:1'"):
            jobs.status("plain", address="http://127.0.0.1:1")

    def test_an_address_must_be_a_url(self):
        with pytest.raises(InputError, match=r"^--address: .*'127.0.0.1:8265'.*http://127"):
            jobs.status("plain", address="127.0.0.1:8265")

    def test_what_is_no_jobs_server_is_a_fault(self):
        with pytest.raises(InputError, match=r"^--address: .*'nonsense://here'"):
            jobs.status("plain", address="nonsense://here")

    def test_the_address_given_counts_before_the_environment_and_that_before_the_default(
        self, monkeypatch
    ):
        for variable in jobs.ADDRESS_VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        assert jobs._where(None) == "http://127.0.0.1:8265"
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
        assert jobs._where(None) == "http://127.0.0.1:2"
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3")
        assert jobs._where(None) == "http://127.0.0.1:3"
        assert jobs._where("http://127.0.0.1:4") == "http://127.0.0.1:4"

    def test_ray_asks_at_the_address_given(self, monkeypatch):
        class Guard(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_error(403)

        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:3")
        with HTTPServer(("127.0.0.1", 0), Guard) as server:
            Thread(target=server.handle_request, daemon=True).start()
            with pytest.raises(InputError, match="rejected the token"):
                jobs.status("plain", address=f"http://127.0.0.1:{server.server_port}")
        # What Ray was not to see is back.
        with pytest.raises(InputError, match=r"no Ray cluster that answers.*'http://127.0.0.1:3'"):
            jobs.status("plain")

    def test_the_entrypoint_is_one_command_of_the_cli(self):
        assert jobs._entrypoint("s3://bucket/x", ["a=1", "b=[1, 2]"], True) == (
            "python -m orchestrator.cli search config.yaml --executor ray --home s3://bucket/x "
            "--set a=1 --set 'b=[1, 2]' --resume"
        )
        assert jobs._entrypoint("/h", [], False).endswith("--home /h")

    @pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", "a b", "a\n"])
    def test_a_name_that_can_be_no_file_name_is_a_fault(self, name, config):
        with pytest.raises(InputError, match=r"^NAME: "):
            jobs.submit(config, name=name, home="/home")

    def test_a_missing_configuration_is_a_fault(self, tmp_path):
        with pytest.raises(InputError, match=r"^CONFIG: .*nowhere\.yaml"):
            jobs.submit(tmp_path / "nowhere.yaml", name="plain", home="/home")

    @pytest.mark.parametrize(
        ("path", "given"),
        [
            ("--home", {"home": "ftp://me:hunter2@host/home"}),
            ("--set", {"overrides": ["storage=postgresql://me:hunter2@host/db"]}),
            ("--set", {"overrides": ["a=1", "storage=postgresql://host/db?password=hunter2"]}),
            ("--set", {"overrides": ["data=https://host/d?X-Amz-Signature=hunter2&b=1"]}),
            ("MLFLOW_TRACKING_URI", "http://me:hunter2@host:5000"),
            ("FEWTUNE_DATA", "https://host/d?sv=1&sig=hunter2"),
            ("FEWTUNE_DATA", "https://host/d?anything=hunter2"),
            ("AWS_ENDPOINT_URL", "https://host/#hunter2"),
            ("CONFIG, line 2", "name: x\ndata: https://host/d?token=hunter2\n"),
        ],
    )
    def test_a_password_is_refused_and_not_repeated(self, path, given, config, monkeypatch):
        for variable in jobs.PASSED_ON:
            monkeypatch.delenv(variable, raising=False)
        if path.startswith("CONFIG"):
            config.write_text(given)
        elif isinstance(given, str):
            monkeypatch.setenv(path, given)
        more = given if isinstance(given, dict) else {}
        with pytest.raises(InputError) as caught:
            jobs.submit(config, **{"name": "plain", "home": "/home", **more})
        assert [detail.path for detail in caught.value.details] == [path]
        assert "hunter2" not in str(caught.value)

    def test_all_passwords_are_refused_at_once(self, config, monkeypatch):
        for variable in jobs.PASSED_ON:
            monkeypatch.setenv(variable, "https://host/d?sig=hunter2")
        with pytest.raises(InputError) as caught:
            jobs.submit(config, name="plain", home="ftp://me:hunter2@host/home")
        assert [detail.path for detail in caught.value.details] == ["--home", *jobs.PASSED_ON]

    def test_urls_without_a_password_are_no_secrets(self, monkeypatch):
        urls = {
            "FEWTUNE_DATA": "s3://bucket/data",
            "MLFLOW_TRACKING_URI": "http://me@host:5000/a:b",
        }
        for variable in jobs.PASSED_ON:
            monkeypatch.delenv(variable, raising=False)
        for variable, url in urls.items():
            monkeypatch.setenv(variable, url)
        assert urls.items() <= jobs._variables().items()
