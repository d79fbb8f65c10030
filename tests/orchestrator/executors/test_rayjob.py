"""`deploy/rayjob.yaml` is checked without Kubernetes, and its entrypoint is run.

The schema below has the fields that the file uses, as KubeRay's reference of its API and that of
Kubernetes describe them. It finds a misspelt field, a wrong type and a missing field. It can't see
what an operator of a certain version does with them, whether the image exists and can pull, or
whether the storage class gives volumes that several nodes can mount.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft7Validator

from orchestrator.config.loading import dump, load_config
from orchestrator.record.home import Home
from orchestrator.record.studies.study import read_study
from orchestrator.tracking.mlflow_client import connect
from tests.orchestrator import tiny
from tests.paths import ROOT

TEXT = (ROOT / "deploy" / "rayjob.yaml").read_text()


def fields(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
YES = {"type": "boolean"}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = fields("name", name=STRING, labels=STRINGS)
RESOURCES = fields(requests=STRINGS, limits=STRINGS)
CONTAINER = fields(
    "name image resources",
    name=STRING,
    image=STRING,
    ports=many(fields("containerPort", containerPort=COUNT, name=STRING)),
    envFrom=many(fields(secretRef=fields("name", name=STRING, optional=YES))),
    env=many(fields("name value", name=STRING, value={"type": "string"})),
    volumeMounts=many(fields("name mountPath", name=STRING, mountPath=STRING)),
    resources=RESOURCES,
)
VOLUME = fields(
    "name",
    name=STRING,
    persistentVolumeClaim=fields("claimName", claimName=STRING),
    configMap=fields("name", name=STRING),
)
TEMPLATE = fields(
    "spec", spec=fields("containers", containers=many(CONTAINER), volumes=many(VOLUME))
)
CLUSTER = fields(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion=STRING,
    enableInTreeAutoscaling=YES,
    autoscalerOptions=fields(idleTimeoutSeconds=COUNT),
    authOptions=fields("mode", mode={"enum": ["token", "disabled"]}),
    headGroupSpec=fields("rayStartParams template", rayStartParams=STRINGS, template=TEMPLATE),
    workerGroupSpecs=many(
        fields(
            "groupName rayStartParams template",
            groupName=STRING,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=STRINGS,
            template=TEMPLATE,
        )
    ),
)
KINDS = {
    "ConfigMap": ("v1", fields("metadata data", metadata=METADATA, data=STRINGS)),
    "PersistentVolumeClaim": (
        "v1",
        fields(
            "metadata spec",
            metadata=METADATA,
            spec=fields(
                "accessModes resources",
                accessModes={"type": "array", "items": {"enum": ["ReadWriteMany"]}},
                storageClassName=STRING,
                resources=RESOURCES,
            ),
        ),
    ),
    "RayJob": (
        "ray.io/v1",
        fields(
            "metadata spec",
            metadata=METADATA,
            spec=fields(
                "entrypoint rayClusterSpec",
                entrypoint=STRING,
                backoffLimit=COUNT,
                shutdownAfterJobFinishes=YES,
                ttlSecondsAfterFinished=COUNT,
                runtimeEnvYAML=STRING,
                rayClusterSpec=CLUSTER,
            ),
        ),
    ),
}


def problems(text: str) -> list[str]:
    """All that is wrong with the file."""
    documents = {each["kind"]: each for each in yaml.safe_load_all(text)}
    if documents.keys() != KINDS.keys():
        return [f"kinds: {sorted(documents)}"]
    found = list(_of_the_schema(documents))
    return found or [one for check in CHECKS for one in check(documents)]


def _of_the_schema(documents: dict[str, Any]) -> Iterator[str]:
    for kind, document in documents.items():
        version, schema = KINDS[kind]
        rest = {name: part for name, part in document.items() if name not in ("kind", "apiVersion")}
        if document.get("apiVersion") != version:
            yield f"{kind}.apiVersion: {document.get('apiVersion')}"
        for error in Draft7Validator(schema).iter_errors(rest):
            yield f"{kind}.{'.'.join(map(str, error.absolute_path))}: {error.message}"


def _cluster(documents: dict[str, Any]) -> dict[str, Any]:
    cluster: dict[str, Any] = documents["RayJob"]["spec"]["rayClusterSpec"]
    return cluster


def _groups(documents: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = _cluster(documents)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _volumes(documents: dict[str, Any]) -> Iterator[str]:
    """What is mounted exists, at the same place on all nodes."""
    claim, search = (documents[kind]["metadata"]["name"] for kind in list(KINDS)[1::-1])
    places = []
    for group in _groups(documents):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        places.append(container["volumeMounts"])
        for mount in container["volumeMounts"]:
            volume = volumes.get(mount["name"], {})
            if volume.get("persistentVolumeClaim", {}).get("claimName") != claim and (
                volume.get("configMap", {}).get("name") != search
            ):
                yield f"volumes: nothing for {mount['name']}"
    if any(place != places[0] for place in places):
        yield "volumeMounts: not the same on all nodes"


def _nodes(documents: dict[str, Any]) -> Iterator[str]:
    head, *workers = _groups(documents)
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: takes trials"
    for worker in workers:
        if worker["minReplicas"] > worker["maxReplicas"]:
            yield "worker: minReplicas above maxReplicas"
        for resources in worker["template"]["spec"]["containers"][0]["resources"].values():
            if resources.get("nvidia.com/gpu") != "1":
                yield "worker: not one GPU"


def _closed(documents: dict[str, Any]) -> Iterator[str]:
    if _cluster(documents).get("authOptions") != {"mode": "token"}:
        yield "authOptions: no token"


def _versions(documents: dict[str, Any]) -> Iterator[str]:
    if _cluster(documents)["rayVersion"] != ray.__version__:
        yield f"rayVersion: where {ray.__version__} is installed"
    for said in ("ray[default]==", "rayproject/ray:"):
        if said + ray.__version__ not in TEXT:
            yield f"comment: {said} of another version"


def _entrypoint(documents: dict[str, Any]) -> Iterator[str]:
    files = documents["ConfigMap"]["data"]
    if documents["RayJob"]["spec"]["entrypoint"] != "sh /etc/fewtune/run.sh":
        yield "entrypoint: not the script"
    mounts = {each["mountPath"] for each in _containers(documents)[0]["volumeMounts"]}
    if "/etc/fewtune" not in mounts or not {"run.sh", "search.yaml"} <= files.keys():
        yield "entrypoint: its files are not there"
    homes = {each["value"] for each in _containers(documents)[0]["env"]} & mounts
    if not homes:
        yield "FEWTUNE_HOME: not on the volume"
    variables = yaml.safe_load(documents["RayJob"]["spec"]["runtimeEnvYAML"])["env_vars"]
    if variables != {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}:
        yield "runtimeEnvYAML: the driver has no time to stop"


def _containers(documents: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"]["containers"][0] for group in _groups(documents)]


CHECKS = (_volumes, _nodes, _closed, _versions, _entrypoint)


def test_the_file_has_no_faults() -> None:
    assert problems(TEXT) == []


def replaced(old: str, new: str) -> Callable[[], str]:
    def text() -> str:
        assert old in TEXT, old
        return TEXT.replace(old, new)

    return text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (replaced("backoffLimit", "backofLimit"), "RayJob.spec: "),
        (replaced("backoffLimit: 3", "backoffLimit: three"), "RayJob.spec.backoffLimit: "),
        (replaced("ray.io/v1", "ray.io/v1alpha1"), "RayJob.apiVersion: "),
        (replaced('num-cpus: "0"', "num-cpus: 0"), "RayJob.spec.rayClusterSpec.headGroupSpec"),
        (replaced('nvidia.com/gpu: "1"', "nvidia.com/gpu: 1"), "RayJob.spec.rayClusterSpec.worker"),
        (replaced("workerGroupSpecs", "workerGroupSpec"), "RayJob.spec.rayClusterSpec: "),
        (replaced("mode: token", "mode: password"), "RayJob.spec.rayClusterSpec.authOptions"),
        (replaced("mode: token", "mode: disabled"), "authOptions: no token"),
        (replaced("[ReadWriteMany]", "[ReadWriteOnce]"), "PersistentVolumeClaim.spec.accessModes"),
        (replaced("claimName: fewtune-home", "claimName: home"), "volumes: nothing for home"),
        (replaced("configMap: {name: fewtune-search}", "configMap: {name: x}"), "volumes: nothing"),
        (replaced("mountPath: /fewtune}", "mountPath: /other}"), "FEWTUNE_HOME: not"),
        (replaced('num-cpus: "0"', 'num-cpus: "4"'), "head: takes trials"),
        (replaced("minReplicas: 0", "minReplicas: 9"), "worker: minReplicas"),
        (replaced(', nvidia.com/gpu: "1"', ""), "worker: not one GPU"),
        (replaced(f'rayVersion: "{ray.__version__}"', 'rayVersion: "2.59.0"'), "rayVersion: "),
        (replaced("  run.sh: |", "  start.sh: |"), "entrypoint: its files"),
        (replaced("STOP_SIGNAL: SIGINT", "STOP_SIGNAL: SIGTERM"), "runtimeEnvYAML: "),
    ],
)
def test_a_faulty_file_is_told_apart(text: Callable[[], str], problem: str) -> None:
    found = problems(text())
    assert any(one.startswith(problem) for one in found), found


def files() -> dict[str, str]:
    """The files that the ConfigMap has."""
    data = next(each for each in yaml.safe_load_all(TEXT) if each["kind"] == "ConfigMap")["data"]
    assert isinstance(data, dict)
    return data


def test_its_search_is_a_valid_config(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(files()["search.yaml"])
    config = load_config(tmp_path / "search.yaml")
    (worker,) = _cluster({each["kind"]: each for each in yaml.safe_load_all(TEXT)})[
        "workerGroupSpecs"
    ]
    assert config.search.workers <= worker["maxReplicas"]
    assert config.search.gpus_per_worker == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_its_entrypoint_starts_resumes_and_shows_a_search(tmp_path: Path) -> None:
    """With a search that takes seconds, and with inline workers in place of a cluster."""
    (tmp_path / "search.yaml").write_text(dump(tiny.config(steps=40)))
    script = tmp_path / "run.sh"
    script.write_text(files()["run.sh"].replace("/etc/fewtune", str(tmp_path)))
    stand_in = tmp_path / "bin" / "fewtune"
    stand_in.parent.mkdir()
    command = f'exec {sys.executable} -m orchestrator.cli "$@" --executor inline'
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{command}\n')
    stand_in.chmod(0o755)
    home = Home(tmp_path / "home")
    home.path.mkdir()
    connect(home.tracking_uri)  # here this database is copied; its migrations take long

    def started() -> subprocess.Popen[str]:
        env = os.environ | {
            "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "FEWTUNE_HOME": str(home.path),
        }
        sh = shutil.which("sh") or "sh"
        return subprocess.Popen(
            [sh, script], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    process = started()
    try:
        _wait_for_a_trial(home, process)
    finally:
        process.kill()
        process.communicate()
    for _ in range(2):
        process = started()
        said, _ = process.communicate(timeout=500)
        assert process.returncode == 0, said
        assert "leaderboard" in said.lower() or "best" in said, said
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.endswith(" --resume") for call in calls] == [False, True, True]


def _wait_for_a_trial(home: Home, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not (record := read_study(home.storage("toy"), "toy")) or not len(record):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
