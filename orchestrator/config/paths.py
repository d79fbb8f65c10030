"""Where the files of a config lie: relative to the config; and what of them an export keeps."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.models.pretrained.encoder import is_hub_id
from orchestrator.config.loading import parse
from orchestrator.config.sections.config import Config

_VARIABLE = "FEWTUNE_DATA"
_SET = "Say where it is: --set {place}=PATH"

# From the place of an option (such as datasets.texts.path) and its value to another value.
Change = Callable[[str, str], str]


def with_absolute_paths(config: Config, folder: Path) -> Config:
    """The same config with all relative paths made absolute: they begin in `folder`, its own.

    What begins with `~` or a variable stays as it is, as do names of encoders. Raises InputError
    where a file is not there, but is in the working directory: it must be clear which is meant.
    """
    details: list[ErrorDetail] = []

    def change(place: str, value: str) -> str:
        if not _is_file(place, value, folder):
            return value
        beside, here = folder.absolute() / value, Path(value).absolute()
        if Path(value).is_absolute() or beside.exists() or not here.exists():
            return str(beside)
        rule = f"begins in the folder of the config, {folder.absolute()}, where it does not exist."
        remedy = f"It does in the working directory: write {here}, or move it beside the config."
        details.append(ErrorDetail(place, rule, value, remedy))
        return value

    found = _changed(config, change)
    if details:
        raise InputError(details)
    return found


def export_with_absolute_paths(config: Config, folder: Path) -> Config:
    """As `located`, of an export in `folder`: its data lie beside it, or in the working directory.

    Raises InputError with all that is in neither place, and how to say where it is.
    """
    details: list[ErrorDetail] = []

    def change(place: str, value: str) -> str:
        if not _is_file(place, value, folder):
            return value
        for where in (folder, Path.cwd()):
            if (where.absolute() / value).exists():
                return str(where.absolute() / value)
        rule = "is not beside the export, and not in the working directory: exports have no data."
        details.append(ErrorDetail(place, rule, value, _SET.format(place=place)))
        return value

    found = _changed(config, change)
    if details:
        raise InputError(details)
    return found


def own_files(config: Config, folder: Path) -> Config:
    """As `located`, of an export whose data are not read: what lies in it is found there."""
    return _changed(
        config,
        lambda place, value: (
            str(folder.absolute() / value)
            if _is_file(place, value, folder) and (folder / value).exists()
            else value
        ),
    )


def with_portable_paths(config: Config, folder: Path, encoders: Mapping[str, str]) -> Config:
    """The same config without any path that only this machine has.

    Paths begin in `folder`, the one of the config, or in `${FEWTUNE_DATA}`; of those that are in
    neither, the name is left. encoders: folders of an export by the encoders that lie in them.
    """
    shortened: dict[str, str] = {}

    def change(place: str, value: str) -> str:
        if place.endswith(".encoder") and value in encoders and is_folder(value, folder):
            return encoders[value]
        if not _is_file(place, value, folder) or not Path(value).is_absolute():
            return value
        return shortened.setdefault(value, _short(Path(value), folder, set(shortened.values())))

    return _changed(config, change)


def _short(path: Path, folder: Path, taken: set[str]) -> str:
    data = os.environ.get(_VARIABLE)
    if data and path.is_relative_to(Path(data).absolute()):
        return f"${{{_VARIABLE}}}/{path.relative_to(Path(data).absolute())}"
    if path.is_relative_to(folder.absolute()):
        return str(path.relative_to(folder.absolute()))
    names = (str(Path(*path.parts[-n:])) for n in range(1, len(path.parts)))
    return next((name for name in names if name not in taken), path.name)


def is_folder(encoder: str, folder: Path) -> bool:
    """Whether an encoder of a config in `folder` is a folder, not a name."""
    return _is_file(".encoder", encoder, folder) or encoder.startswith(("~", "$"))


def _is_file(place: str, value: str, folder: Path) -> bool:
    """Whether an option is a path that begins here or in `folder`."""
    if not value or value.startswith(("~", "$")) or "://" in value:
        return False
    if place.endswith(".path") or (folder / value).is_dir() or Path(value).is_dir():
        return True
    return (os.sep in value or value.startswith(".")) and not is_hub_id(value)


def _changed(config: Config, change: Change) -> Config:
    data: dict[str, Any] = config.model_dump(by_alias=True, exclude_none=True, mode="json")
    sections = {f"datasets.{name}": part for name, part in data.get("datasets", {}).items()}
    sections |= {key: data[key] for key in ("model", "teacher") if key in data}
    changed = False
    for place, part in sections.items():
        for key in ("path", "encoder"):
            if isinstance(value := part.get(key), str):
                part[key] = change(f"{place}.{key}", value)
                changed |= part[key] != value
    return parse(data) if changed else config


def is_export(config: Path) -> bool:
    """Whether a config lies in an export, which somebody else may have made."""
    return any((config.parent / name).exists() for name in ("result.json", "model.safetensors"))
