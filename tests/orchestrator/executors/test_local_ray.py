"""What a search on this machine opens to others."""

import importlib
import json
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from ipaddress import ip_address

import pytest

from orchestrator.executors.on_ray.local_ray import restrict_ray_to_localhost
from tests.paths import ROOT

# A search's executor, as a search starts it, that says what it may be reached by.
SEARCHER = """
import json, sys
from pathlib import Path
from orchestrator.executors.on_ray.local_ray import restrict_ray_to_localhost
from orchestrator.executors.kinds import WorkerKind
from tests.trials.conformance import protonet
restrict_ray_to_localhost()
from orchestrator.executors.on_ray.ray_actors import RayExecutor
folder = Path(sys.argv[1])
case = protonet(folder)
kinds = [WorkerKind(recipe=case.recipe)]
executor = RayExecutor(kinds, lanes=2, folder=folder, cache=case.cache)
executor.send_orders(0, {}, [case.spec(0)])
while executor.turn() is None:
    pass
import ray
print(json.dumps(ray.get_runtime_context().gcs_address), flush=True)
sys.stdin.read()
executor.close()
"""
STRANGER = """
import sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as error:
    print("refused", type(error).__name__, str(error)[:500])
else:
    print("let in")
"""


def environment(folder, **more):
    """Without anything that says how Ray is to be, and with a home of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return own | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def run_python(code, *arguments, env):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def listening(pid):
    """Process names and addresses of all sockets on which a process and its children listen."""
    importlib.import_module("ray")
    psutil = importlib.import_module("psutil")  # Ray's copy
    found = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            name, all_of_it = process.name(), process.net_connections("inet")
            found += [(name, one.laddr) for one in all_of_it if one.status == psutil.CONN_LISTEN]
    return found


def is_loopback(ip):
    address = ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    """A search on a Ray of its own: its process, its home, the address of its cluster."""
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [sys.executable, "-c", SEARCHER, tmp_path_factory.mktemp("search")],
        cwd=ROOT,
        env=environment(home),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process, home, json.loads(process.stdout.readline())
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.ray
class TestASearchOnThisMachine:
    def test_listens_on_the_loopback_interface_only(self, searcher):
        process, _, _ = searcher
        found = listening(process.pid)
        assert {"gcs_server", "raylet"} <= {name for name, _ in found}
        assert any(name.startswith("ray::") for name, _ in found), "workers too"
        assert not [each for each in found if not is_loopback(each[1].ip)]

    def test_has_a_token_that_only_its_user_can_read(self, searcher):
        _, home, _ = searcher
        token = home / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(token.read_text()) == 64
        assert os.listdir(token.parent) == ["auth_token"]

    @pytest.mark.parametrize("own", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}])
    def test_refuses_who_has_not_its_token(self, searcher, tmp_path, own):
        *_, address = searcher
        here = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        said = run_python(STRANGER, address, env=environment(tmp_path, **here | own))
        assert "refused" in said.stdout, said.stderr

    def test_takes_no_jobs(self, searcher):
        """Ray's agent has a way to submit them, which asks for the token; the dashboard is off."""
        process, _, _ = searcher
        deadline, answers = time.monotonic() + 120, []
        while 401 not in answers or None in answers:  # this port is opened after the others
            assert time.monotonic() < deadline, answers
            time.sleep(0.5)
            agents = [laddr for name, laddr in listening(process.pid) if "DashboardAgent" in name]
            answers = [answer(ip, port) for ip, port in agents if ":" not in ip]  # IPv6: not HTTP
        assert set(answers) <= {401, 404, 405}, "no other takes them"
        assert not [port for _, (_, port) in listening(process.pid) if port == 8265]


def answer(ip, port):
    """The status with which a port answers to a job."""
    url = f"http://{ip}:{port}/api/job_agent/jobs/"
    request = urllib.request.Request(url, json.dumps({"entrypoint": "id"}).encode())
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:  # not answering yet
        return None


SAYS = """
import json, os
from orchestrator.executors.on_ray.local_ray import restrict_ray_to_localhost
restrict_ray_to_localhost()
print(json.dumps({k: v for k, v in os.environ.items() if k.startswith("RAY_")}))
"""


class TestTheEnvironmentOfRay:
    def said(self, home, **own):
        found = run_python(SAYS, env=environment(home, **own))
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout), found.stderr

    def test_a_token_of_the_users_is_kept(self, tmp_path):
        token = tmp_path / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text("1" * 64)
        token.chmod(0o644)
        said, warned = self.said(tmp_path)
        assert said["RAY_AUTH_MODE"] == "token"
        assert token.read_text() == "1" * 64
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert "only you" in warned
        assert not self.said(tmp_path)[1], "once"

    @pytest.mark.parametrize("own", [{"RAY_AUTH_TOKEN": "2"}, {"RAY_AUTH_MODE": "disabled"}])
    def test_what_the_user_has_set_is_kept(self, tmp_path, own):
        said, _ = self.said(tmp_path, **own)
        assert said.items() >= own.items()
        assert not (tmp_path / ".ray").exists()

    def test_without_a_home_the_token_is_nowhere_but_in_the_environment(self, tmp_path):
        (tmp_path / "file").touch()
        said, _ = self.said(tmp_path / "file")
        assert len(said["RAY_AUTH_TOKEN"]) == 64

    def test_is_left_alone_where_ray_has_read_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", sys)
        before = dict(os.environ)
        restrict_ray_to_localhost()
        assert dict(os.environ) == before
