"""Everything that a search needs, looked at from the driver and, if asked for, from a worker."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.models.pretrained.encoder import ENCODERS
from fewshot.tasks.files import existing
from orchestrator.config.loading import load_config
from orchestrator.config.paths import is_export, with_absolute_paths
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.doctor.machine import LIBRARIES, findings_of_machine
from orchestrator.executors.on_ray.local_ray import restrict_ray_to_localhost
from orchestrator.launch import check_room
from orchestrator.record.home import Home
from orchestrator.record.studies.storage_probe import unreachable
from orchestrator.tracking.mlflow_probe import state_of

_DATA = "FEWTUNE_DATA"


def examined(
    home: Home,
    config: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    start_ray: bool = False,
) -> list[Finding]:
    """Everything that was found; a problem would stop a search. Writes nothing that remains.

    config: a YAML file, whose data and encoders are looked for. start_ray: whether to start Ray on
    this machine; with RAY_ADDRESS, that cluster is asked in any case.
    """
    found: list[Finding] = []
    loaded = None
    if config is not None:
        try:
            loaded = _loaded(config, overrides)
            found += _of_config(config, loaded)
        except InputError as error:
            found += [_of_detail(detail) for detail in error.details]
    read = _encoders(loaded)
    here = findings_of_machine(home.path, os.environ.get(_DATA, ""), read)
    found = [*here, *_storage(home), _mlflow(home), *found]
    if start_ray or os.environ.get("RAY_ADDRESS"):
        found += _ray(home, read, here)
    return found


def _loaded(config: Path, overrides: Sequence[str]) -> AnyConfig:
    loaded = load_config(config, overrides, foreign=is_export(config))
    return with_absolute_paths(loaded, config.absolute().parent)


def _of_config(path: Path, config: AnyConfig) -> Iterator[Finding]:
    """The files of the config, and whether its workers fit on this machine."""
    yield ok("config", f"{path} has no errors in the file")
    datasets = config.datasets if isinstance(config, Config) else {}
    for name, part in datasets.items():
        place = part.options().get("path")
        if place is None:
            continue
        try:
            yield ok(f"datasets.{name}", str(existing(str(place), f"datasets.{name}.path")))
        except InputError as error:
            yield from map(_of_detail, error.details)
    if not os.environ.get("RAY_ADDRESS"):
        try:
            check_room(config)
        except InputError as error:
            yield from map(_of_detail, error.details)


def _of_detail(detail: ErrorDetail) -> Finding:
    found = "" if detail.found is None else f" Found {detail.found!r}."
    return problem(detail.path, f"{detail.rule}{found}", detail.remedy or "Correct this value.")


def _encoders(config: AnyConfig | None) -> list[str]:
    """The encoders that a config names."""
    if not isinstance(config, Config):
        return []
    parts = [*config.datasets.values(), config.model, *([config.teacher] if config.teacher else [])]
    named = (part.options().get(key) for part in parts for key in ENCODERS)
    return sorted({str(name) for name in named if name})


def _storage(home: Home) -> Iterator[Finding]:
    """Where the studies are, and which searches have a driver now."""
    try:
        url = home.storage("any")
    except InputError as error:
        yield from map(_of_detail, error.details)
        return
    if "://" not in url:
        yield ok("storage", f"journal files in {Path(url).parent}")
    elif fault := unreachable(url):
        remedy = "Check the URL and the server, or unset FEWTUNE_STORAGE to use a journal."
        yield problem("storage", f"FEWTUNE_STORAGE can't be used: {fault}.", remedy)
    else:
        yield ok("storage", f"FEWTUNE_STORAGE {url} can be reached")
    running = [name for name in home.searches() if home.is_owned(name)]
    if running:
        yield ok("running", f"searches with a driver on this machine: {', '.join(running)}")


def _mlflow(home: Home) -> Finding:
    uri = home.tracking_uri
    state = state_of(uri)
    if not state.fault:
        schema = f"; schema {state.schema}" if state.schema else ""
        return ok("mlflow server", f"{uri} can be used{schema}")
    text = f"{uri} can't be used: {state.fault}"
    if "schema" in state.fault:  # MLflow's own message names both versions
        remedy = f"Back the database up, then run `mlflow db upgrade {uri}`."
        return problem("mlflow server", text, remedy)
    if uri.startswith("sqlite:"):
        return problem("mlflow server", text, "Restore the file from a backup, or move it away.")
    # A search goes on without the server, and keeps the events on the disk.
    remedy = "Check MLFLOW_TRACKING_URI and the server. A search runs without it and sends later."
    return warning("mlflow server", text, remedy)


def _ray(home: Home, read: Sequence[str], here: Sequence[Finding]) -> Iterator[Finding]:
    """Ray, and this machine's findings once more as a worker sees them."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        restrict_ray_to_localhost()
    from orchestrator.executors.on_ray.ray_probe import on_worker  # Ray takes seconds to import

    data = os.environ.get(_DATA, "")
    probe = on_worker(findings_of_machine, home.path, data, list(read))
    where = f"the cluster at {address}" if address else "Ray on this machine"
    if probe.fault:
        remedy = (
            "Check RAY_ADDRESS, the token, and that every node has the same fewtune and Ray."
            if address
            else "Check memory and disk, or search with `--executor inline`."
        )
        yield problem("ray worker", f"{where} can't run a task: {probe.fault}.", remedy)
        return
    yield ok("ray worker", f"{where}: {probe.resources}")
    there: list[Finding] = [replace(each, place="worker") for each in probe.result]
    yield from there
    yield from _different(here, there)


def _different(here: Sequence[Finding], there: Sequence[Finding]) -> Iterator[Finding]:
    """Libraries whose versions differ between driver and worker."""
    own, other = ({each.what: each.text for each in part} for part in (here, there))
    for name in ("python", *LIBRARIES):
        if own[name] != other[name]:
            text = f"the driver has {own[name]}, the worker has {other[name]}."
            found = problem if name in ("python", "ray") else warning
            yield replace(
                found(f"{name} versions", text, "Install the same versions on every node."),
                place="worker",
            )
