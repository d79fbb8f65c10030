"""Makes the paths in a config absolute or portable."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import overload

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.models.pretrained.encoder import ENCODERS, is_hub_id
from orchestrator.config.loading import few_shot, parse
from orchestrator.config.sections.config import Config
from orchestrator.config.sections.own_loop import AnyConfig, OwnLoopConfig

_VARIABLE = "FEWTUNE_DATA"
_SET = "Set its path: --set {place}=PATH"

# Maps the key of an option (such as datasets.texts.path) and its value to a new value.
Change = Callable[[str, str], str]


@overload
def with_absolute_paths(config: Config, folder: Path) -> Config: ...
@overload
def with_absolute_paths(config: AnyConfig, folder: Path) -> AnyConfig: ...
def with_absolute_paths(config: AnyConfig, folder: Path) -> AnyConfig:
    """The config with all relative paths made absolute; they are relative to its `folder`.

    Paths that start with `~` or a variable are kept, and so are names of encoders. Raises
    InputError if a file does not exist in `folder` but exists in the working directory, because
    then it is unclear which file is meant.
    """
    if isinstance(config, OwnLoopConfig):
        place = folder.absolute() / Path(os.path.expandvars(config.path)).expanduser()
        return OwnLoopConfig.of(config.data() | {"path": os.path.normpath(place)})
    details: list[ErrorDetail] = []

    def change(place: str, value: str) -> str:
        if not _is_file(place, value, folder):
            return _beside(place, value, folder)
        beside, here = folder.absolute() / value, Path(value).absolute()
        if Path(value).is_absolute() or beside.exists() or not here.exists():
            return str(beside)
        rule = (
            f"is relative to the folder of the config, {folder.absolute()}, where it does not "
            "exist."
        )
        remedy = (
            f"It exists in the working directory: write {here}, or move it to the config's folder."
        )
        details.append(ErrorDetail(place, rule, value, remedy))
        return value

    changed = _changed(config, change)
    if details:
        raise InputError(details)
    return changed


def export_with_absolute_paths(config: Config, folder: Path) -> Config:
    """Like `with_absolute_paths`, for the config of an export in `folder`.

    The data are searched for in the folder of the export, then in the working directory. Raises
    InputError for the paths that are in neither folder; each error says how to set the path.
    """
    details: list[ErrorDetail] = []

    def change(place: str, value: str) -> str:
        if not _is_file(place, value, folder):
            return _beside(place, value, folder, Path.cwd())
        for where in (folder, Path.cwd()):
            if (where.absolute() / value).exists():
                return str(where.absolute() / value)
        rule = (
            "is neither in the folder of the export nor in the working directory. An export does "
            "not contain the data."
        )
        details.append(ErrorDetail(place, rule, value, _SET.format(place=place)))
        return value

    changed = _changed(config, change)
    if details:
        raise InputError(details)
    return changed


def with_absolute_export_paths(config: Config, folder: Path) -> Config:
    """The config of an export with absolute paths for the files in `folder`; others are kept.

    For uses of an export that do not read its training data.
    """
    return _changed(
        config,
        lambda place, value: (
            str(folder.absolute() / value)
            if _is_file(place, value, folder) and (folder / value).exists()
            else value
        ),
    )


def with_portable_paths(
    config: Config,
    folder: Path,
    encoders: Mapping[str, str],
    text_encoders: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """The config without paths that exist on this machine only.

    Paths become relative to `folder`, the folder of the config, or to `${FEWTUNE_DATA}`; a path
    outside both is replaced by its last part.

    encoders, text_encoders: for each encoder in an export, its folder in the export, by the name of
        the option that names it.
    """
    shortened: dict[str, str] = {}

    def change(place: str, value: str) -> str:
        copied = text_encoders if place.endswith(".text_encoder") else encoders
        if place.endswith("encoder") and value in copied and is_folder(value, folder):
            return copied[value]
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
    """Whether an encoder of a config in `folder` is a path to a folder rather than a name."""
    return _is_file(".encoder", encoder, folder) or encoder.startswith(("~", "$"))


def _is_file(place: str, value: str, folder: Path) -> bool:
    """Whether the value of an option is a path, relative to `folder` or the working directory."""
    if not value or value.startswith(("~", "$")) or "://" in value:
        return False
    if place.endswith(".path") or (folder / value).is_dir() or Path(value).is_dir():
        return True
    return (os.sep in value or value.startswith(".")) and not is_hub_id(value)


def _beside(place: str, value: str, *folders: Path) -> str:
    """The path of a table of titles that is given by its name and is in one of the folders.

    Otherwise it is in the folder of its images, which `fewshot.tasks.pictures.images` knows.
    """
    if not place.endswith(".text") or value.startswith(("~", "$")):
        return value
    found = (str(folder.absolute() / value) for folder in folders if (folder / value).is_file())
    return next(found, value)


def _changed(config: Config, change: Change) -> Config:
    data = config.data()
    sections = {f"datasets.{name}": part for name, part in data.get("datasets", {}).items()}
    sections |= {key: data[key] for key in ("model", "teacher") if key in data}
    changed = False
    for place, part in sections.items():
        # The option `text` of other datasets is a column.
        keys = ("path", *ENCODERS, *(("text",) if part.get("source") == "images" else ()))
        for key in keys:
            if isinstance(value := part.get(key), str):
                part[key] = change(f"{place}.{key}", value)
                changed |= part[key] != value
    return few_shot(parse(data)) if changed else config


def is_export(config: Path) -> bool:
    """Whether a config file is part of an export; an export may come from an untrusted source."""
    return any((config.parent / name).exists() for name in ("result.json", "model.safetensors"))
