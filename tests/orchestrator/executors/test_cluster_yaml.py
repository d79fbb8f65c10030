"""`cluster.yaml` is checked without a cloud: by Ray's own code, and for what that does not see."""

import itertools
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.command_runner import _with_environment_variables
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.paths import ROOT

TEXT = (ROOT / "cluster.yaml").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOKEN = "~/.ray/auth_token"
# Ray fills in its own for each that is missing.
COMMANDS = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
PROVIDER = {"type", "region", "availability_zone", "cache_stopped_nodes"}
PROBES = ("curl --silent --fail ", "mountpoint ", "grep -q")  # these ask; they may say no
WAITED_FOR = ("setsid ",)  # in the background; the command after it waits for its success
BASH = shutil.which("bash") or "bash"
PROGRAMS = ("chmod", "curl", "env", "grep", "mkdir", "mountpoint", "setsid", "sudo", "ulimit")
OURS = (".local/bin/uv", "venv/bin/python", "venv/bin/ray")
STAND_IN = """#!{bash}
call="${{0##*/}} $*"
echo "$call" >> {folder}/calls
while read -r failing; do
  [ "$call" = "$failing" ] && exit 1
done < {folder}/failing
exit 0
"""


def details(text: str) -> list[str]:
    """All that is wrong with a cluster file."""
    config = yaml.safe_load(text)
    try:
        validate_config(prepare_config(config))
    except Exception as error:
        return [f"ray: {error}"]
    checks = (_provider, _nodes, _mounts, _missing, _starts, _open, _versions)
    return [input_error for check in checks for input_error in check(config)]


def _commands(config: dict[str, Any]) -> Iterator[str]:
    for key in COMMANDS:
        yield from config.get(key, [])


def _provider(config: dict[str, Any]) -> Iterator[str]:
    for key in config["provider"].keys() - PROVIDER:
        yield f"provider: unknown key {key}"


def _nodes(config: dict[str, Any]) -> Iterator[str]:
    for name, node in config["available_node_types"].items():
        if node.get("min_workers", 0) > node.get("max_workers", config["max_workers"]):
            yield f"{name}: min_workers above max_workers"
        for key in ("InstanceType", "ImageId"):
            if not node["node_config"].get(key):
                yield f"{name}: no {key}"
        head = name == config["head_node_type"]
        if head and any(node["resources"].get(kind) != 0 for kind in ("CPU", "GPU")):
            yield f"{name}: takes trials"
        if not head and node["resources"].get("GPU") != 1:
            yield f"{name}: not one GPU"


def _mounts(config: dict[str, Any]) -> Iterator[str]:
    mounts = config["file_mounts"]
    home = f"/home/{config['auth']['ssh_user']}"
    if mounts.get(f"{home}/.ray/auth_token") != TOKEN:
        yield "file_mounts: the token is not where Ray looks for it"
    for local in mounts.values():
        if local != TOKEN and not (ROOT / local).exists():
            yield f"file_mounts: no {local}"
    packages = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in ["pyproject.toml", PYPROJECT["project"]["readme"], "constraints.txt", *packages]:
        name = name.rstrip("*")
        if mounts.get(f"{home}/src/{name}") != name:
            yield f"file_mounts: {name} is not installed"


def _missing(config: dict[str, Any]) -> Iterator[str]:
    for key in COMMANDS:
        if key not in config:
            yield f"{key}: Ray's own would be used"


def _starts(config: dict[str, Any]) -> Iterator[str]:
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = re.findall(r"^.*\bray start\b(?:.*\\\n)*.*", "\n".join(config.get(key, [])), re.M)
        if len(starts) != 1:
            yield f"{key}: {len(starts)} ray start"
        for start in starts:
            if not re.match(r"\s*RAY_AUTH_MODE=token ray start ", start):
                yield f"{key}: ray start without a token"
            if key.startswith("head"):
                for option in ("--head", "--dashboard-host=127.0.0.1", "--num-cpus=0"):
                    if option not in start.split():
                        yield f"{key}: ray start without {option}"
    for command in _commands(config):
        if "mlflow server" in command and "--host 127.0.0.1 " not in command:
            yield "mlflow server: not on 127.0.0.1"


def _open(config: dict[str, Any]) -> Iterator[str]:
    for command in _commands(config):
        if re.search(r"0\.0\.0\.0|[ =]\[?::", command):
            yield f"open to the world: {command}"


def _versions(config: dict[str, Any]) -> Iterator[str]:
    (ours,) = (need for need in PYPROJECT["project"]["dependencies"] if need.startswith("ray["))
    commands = "\n".join(_commands(config))
    needs = re.findall(r"\bray(?:\[[^]]*\]|==)[^\"'\s]*", commands)
    if not needs:
        yield "ray: no version"
    for need in [ours, *needs]:
        if need != f"ray[default]=={ray.__version__}":
            yield f"ray: {need} where {ray.__version__} is installed"
    pythons = re.findall(r"--python (\S+)", commands)
    if len(pythons) != 1:
        yield "python: no version"
    for python in pythons:
        if python not in SpecifierSet(PYPROJECT["project"]["requires-python"]):
            yield f"python: {python} is not supported"
    for install in re.findall(r"pip install .*~/src$", commands, re.M) or ["none"]:
        if "-c ~/src/constraints.txt" not in install:
            yield f"pip: fewtune without its constraints: {install}"


class Node:
    """Runs a command as Ray would on a node on which every program is a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        (self.home / "fewtune").mkdir(parents=True)
        for file in [*(folder / "bin" / name for name in PROGRAMS), *map(self.home.joinpath, OURS)]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(STAND_IN.format(bash=BASH, folder=folder))
            file.chmod(0o755)

    def run(self, command: str, failing: frozenset[str]) -> tuple[int, list[str]]:
        """Exit status, and the programs that were called, where those in `failing` fail."""
        calls, broken = self.folder / "calls", self.folder / "failing"
        calls.write_text("")
        broken.write_text("".join(f"{call}\n" for call in failing))
        command = _with_environment_variables(command, {"RAY_HEAD_IP": "10.0.0.1"})
        done = subprocess.run(
            [BASH, "-c", f"enable -n ulimit; true && ({command})"],
            env={"HOME": str(self.home), "PATH": str(self.folder / "bin")},
            capture_output=True,
            text=True,
        )
        missing = re.findall(r"(\S+): (?:command not found|No such file)", done.stderr)
        assert not missing, f"no stand-in for {missing} in {command}"
        return done.returncode, calls.read_text().splitlines()


def unsafe(commands: Iterable[str], folder: Path) -> list[str]:
    """Commands that go on, and end well, after one of their programs failed."""
    node = Node(folder)
    return [input_error for command in commands for input_error in _goes_on(node, command)]


def _goes_on(node: Node, command: str) -> Iterator[str]:
    status, calls = node.run(command, frozenset())
    if status:
        yield f"can't succeed: {command}"
    answers = [call for call in calls if call.startswith(PROBES)]
    for said_no in itertools.chain.from_iterable(
        itertools.combinations(answers, count) for count in range(len(answers) + 1)
    ):
        status, calls = node.run(command, frozenset(said_no))
        if status:
            yield f"does not take no for an answer: {said_no}"
        for call in calls:
            if not call.startswith(PROBES + WAITED_FOR):
                status, _ = node.run(command, frozenset({*said_no, call}))
                if not status:
                    yield f"goes on: after {call}"


def test_the_file_has_no_faults():
    assert details(TEXT) == []


def test_a_command_that_fails_fails_its_node(tmp_path):
    assert unsafe(_commands(yaml.safe_load(TEXT)), tmp_path) == []


def replaced(*pairs: tuple[str, str]) -> Callable[[], str]:
    def text() -> str:
        changed = TEXT
        for old, new in pairs:
            assert old in changed, old
            changed = changed.replace(old, new)
        return changed

    return text


def without(key: str) -> Callable[[], str]:
    return lambda: yaml.safe_dump(
        {name: part for name, part in yaml.safe_load(TEXT).items() if name != key}
    )


@pytest.mark.parametrize(
    ("text", "input_error"),
    [
        # Ray's own
        (replaced(("upscaling_speed", "upscalingspeed")), "ray: "),
        (replaced(("GPU: 1}", "GPU: 0.5}")), "ray: "),
        (replaced(("head_node_type: head", "head_node_type: heads")), "ray: "),
        (replaced(("min_workers: 0", "min_workers: 9")), "ray: "),
        (replaced(("type: aws", "type: awz")), "ray: "),
        # Ray lets these pass
        (
            replaced(
                ("min_workers: 0", "min_workers: 3"), ("    max_workers: 8", "    max_workers: 2")
            ),
            "gpu: min_workers",
        ),
        (replaced(("  region:", "  regoin:")), "provider: unknown key regoin"),
        (replaced(("InstanceType: g6", "Instancetype: g6")), "gpu: no InstanceType"),
        (replaced(("      ImageId: *image\n", "")), "gpu: no ImageId"),
        (replaced(("CPU: 0, GPU: 0", "CPU: 4, GPU: 0")), "head: takes trials"),
        (replaced(("CPU: 4, GPU: 1", "CPU: 4")), "gpu: not one GPU"),
        (replaced(("fewshot: fewshot\n", "fewshot: fewshots\n")), "file_mounts: no fewshots"),
        (replaced(("  /home/ubuntu/src/trials: trials\n", "")), "file_mounts: trials is not"),
        (replaced(("auth_token: ~/.ray", "auth_token: ~/ray")), "file_mounts: the token"),
        (replaced(("ssh_user: ubuntu", "ssh_user: ec2-user")), "file_mounts: the token"),
        (
            replaced(("TOKEN".lower() + " ray start --address", "no ray start --address")),
            "worker_start",
        ),
        (replaced(("RAY_AUTH_MODE=token ray start --head", "ray start --head")), "head_start"),
        (replaced((" --num-cpus=0", "")), "head_start_ray_commands: ray start without --num"),
        (
            replaced(("--dashboard-host=127.0.0.1 ", "")),
            "head_start_ray_commands: ray start",
        ),
        (replaced(("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")), "open to the world"),
        (replaced(("--host 127.0.0.1", "--host 0.0.0.0")), "open to the world"),
        (replaced(("--host 127.0.0.1 ", "")), "mlflow server: not on"),
        (replaced((f"=={ray.__version__}", "==2.59.0")), "ray: ray[default]==2.59.0"),
        (replaced((f"=={ray.__version__}", "")), "ray: ray[default] where"),
        (replaced((f'"ray[default]=={ray.__version__}" ', "")), "ray: no version"),
        (replaced(("--python 3.11", "--python 3.10")), "python: 3.10 is not supported"),
        (replaced(("--python 3.11 ", "")), "python: no version"),
        (replaced((" -c ~/src/constraints.txt", "")), "pip: fewtune without"),
        *((without(key), f"{key}: Ray's own") for key in COMMANDS),
    ],
)
def test_a_faulty_file_is_told_apart(text, input_error):
    assert any(found.startswith(input_error) for found in details(text())), details(text())


@pytest.mark.parametrize(
    ("text", "input_error"),
    [
        (replaced(("set -e -o pipefail", "set -e")), "goes on: after curl"),
        (replaced(("set -e -o pipefail", "set -o pipefail")), "goes on: after mkdir"),
        (replaced(("set -e\n    chmod 600", "chmod 600")), "goes on: after chmod"),
        (replaced(("ray stop\n", "ray stop || true\n")), "goes on: after ray stop"),
        (replaced(("set -e\n    if mountpoint", "if mountpoint")), "goes on: after sudo umount"),
        (
            replaced(("http://127.0.0.1:5000/health\n    fi", "http://x || true\n    fi")),
            "goes on: after",
        ),
        (replaced(("    fi\n", "")), "can't succeed"),
    ],
)
def test_a_command_that_goes_on_is_told_apart(text, input_error, tmp_path):
    safe = set(_commands(yaml.safe_load(TEXT)))  # by the test above
    changed = [one for one in _commands(yaml.safe_load(text())) if one not in safe]
    found = unsafe(changed, tmp_path)
    assert any(one.startswith(input_error) for one in found), found
