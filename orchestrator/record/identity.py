"""The identity of a search: it links a folder to its studies.

A search draws an id when it is first started. The id is stored in the folder of the search, in each
of its studies and, as a tag, in its MLflow runs; the first study also stores the config. So a study
that remained after its folder was deleted, or that a different home created in the same database,
is not used by mistake.

After a kill between any two writes of `assign_id`, the next start continues from what was written.
"""

import json
import logging
import math
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks.files import write_text
from orchestrator.config import loading as configs
from orchestrator.config.passwords import redacted
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords
from orchestrator.record.studies.study import StudyRecord
from orchestrator.tracking.sending import outbox

log = logging.getLogger(__name__)

# Names of study attributes.
ID, CONFIG = "search_id", "config"
FORMER = "former_trials"  # the numbers of trials before the search got more of them
STOPPED_EARLY = "stopped_early"  # why the search has fewer trials than planned
WHOLE = "whole"  # the number of planned trials that are all run, without stopping early
TRIALS = "search.trials"
# Where trials run does not matter for their scores, except for rounding, and nodes come and go.
_WORKERS = tuple(f"search.{key}" for key in ("workers", "cpus_per_", "gpus_per_", "worker_timeout"))
_LONGEST = 80  # maximum number of characters of a value in a message


@dataclass(frozen=True)
class Identity:
    """id: the search's id; storage: URL of its studies without the password, "" for the journal."""

    id: str
    storage: str


def identity_of(home: Home, name: str) -> Identity | None:
    """The identity in the folder of the search; None if it is missing or unreadable."""
    path = home.identity(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Identity(str(data["id"]), str(data["storage"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("identity_unreadable path=%s error=%s", path, error)
        return None


def belongs_to(home: Home, name: str, record: StudyRecord) -> bool:
    """Whether the study belongs to the search of this name in this home."""
    stored, id = identity_of(home, name), record.notes.get(ID)
    if stored is not None and id is not None:
        return bool(stored.id == id)
    here = not other_storage_hint(home, name) if id is None else not _storage(home, name)
    return here and home.config(name).exists()


def other_storage_hint(home: Home, name: str) -> str:
    """A hint if the studies of this search are in a storage other than the current one; else ""."""
    stored = identity_of(home, name)
    if stored is None or stored.storage == _storage(home, name):
        return ""
    if stored.storage:
        return f"Its study is in {stored.storage}: set FEWTUNE_STORAGE to this URL."
    return "Its study is in the journal of this home: unset FEWTUNE_STORAGE."


def check(
    config: AnyConfig, home: Home, record: StudyRecord | None, *, resume: bool = False
) -> None:
    """Raise InputError unless the search can start or resume with this study (None: no study).

    A search that is resumed may have more trials than before. Writes nothing.
    """
    name = config.name
    stored, known = identity_of(home, name), home.config(name).exists()
    id = None if record is None else record.notes.get(ID)
    if record is None or not (record.notes or len(record)):
        if not known and resume:
            raise InputError([ErrorDetail("--resume", "there is no such search to resume.", name)])
        _check_not_started(home, name, resume=resume and record is None)
    elif id is None:  # started by a version without ids
        if not known or other_storage_hint(home, name):
            raise _of_another(config, home, record)
    elif stored is None and known and not _storage(home, name):
        pass  # the journal is in this home, so the search belongs to it
    elif stored is None or stored.id != id:
        raise _of_another(config, home, record)
    _check_config(config, home, record, resume=resume)


def planned_trials(home: Home, name: str, record: StudyRecord | None) -> int | None:
    """The number of trials that an earlier run of the search planned; None if it is not known."""
    before = None if record is None else record.notes.get(CONFIG)
    if before is None and home.config(name).exists():
        with suppress(InputError):
            before = configs.data_of(configs.load_config(home.config(name)))
    return None if before is None else before.get("search", {}).get("trials")


def assign_id(
    config: AnyConfig,
    home: Home,
    records: SearchRecords,
    *,
    resume: bool = False,
    whole: bool = False,
) -> Identity:
    """Mark the folder and the studies, new or existing, as those of this search.

    whole: whether a search that stopped early goes on to all of its planned trials.

    Call it while holding `Home.owned`, before anything else is written. Raises InputError, before
    it writes, if the folder or a study belongs to a different search.
    """
    name = config.name
    check(config, home, records.search, resume=resume)
    stored, noted = identity_of(home, name), records.search.notes.get(ID)
    id = stored.id if stored else noted or secrets.token_hex(8)
    for record in (records.final, records.test):
        strange = record.notes.get(ID, id if records.search.notes or not len(record) else None)
        if strange != id:
            raise _of_another(config, home, record)
    identity = Identity(id, _storage(home, name))
    if identity != stored:
        write_text(home.identity(name), json.dumps(asdict(identity)))
    _note_more_trials(config, home, records.search)
    if whole and stopped_early(records.search):
        _note_whole(config, records.search)
    write_text(home.config(name), configs.dump(config))
    for record in (records.search, records.final, records.test):
        if ID not in record.notes:
            record.note(ID, id)
    if CONFIG not in records.search.notes:
        records.search.note(CONFIG, configs.data_of(config))
    records.search.sync()
    return identity


def _note_more_trials(config: AnyConfig, home: Home, record: StudyRecord) -> None:
    """If the search gets more trials, note that it has not ended, and what it planned before.

    In this order, because after a kill in between the search can be resumed again.
    """
    before = planned_trials(home, config.name, record)
    if before is not None and before < config.search.trials:
        record.note("state", "running")
        record.note(STOPPED_EARLY, None)
        record.note(FORMER, [*record.notes.get(FORMER, ()), before])
        record.note(CONFIG, configs.data_of(config))


def stopped_early(record: StudyRecord | None) -> bool:
    """Whether the rule of `search.stop` ended the search, or decided to."""
    return record is not None and record.notes.get(STOPPED_EARLY) is not None


def _note_whole(config: AnyConfig, record: StudyRecord) -> None:
    """Note that a search that stopped early goes on, in an order as in `_note_more_trials`."""
    record.note("state", "running")
    record.note(WHOLE, config.search.trials)
    record.note(STOPPED_EARLY, None)


def _storage(home: Home, name: str) -> str:
    place = home.storage(name)
    return redacted(place) if "://" in place else ""


def _shown(home: Home, name: str) -> str:
    return redacted(home.storage(name))


def _check_not_started(home: Home, name: str, *, resume: bool) -> None:
    """Raise InputError if the search was started before but has no study.

    Such a search can't be resumed, and a new search under the name would mix two searches.
    """
    started = (home.search(name) / outbox.FILE).exists()
    if not (started or resume):
        return
    rule = f"there is no study of this search in {_shown(home, name)}."
    remedy = "Omit `--resume` to start it."
    if started:
        remedy = f"Restore the study, or remove {home.search(name)} to start again."
    raise InputError(
        [
            ErrorDetail(
                "--resume" if resume else "name",
                rule,
                name,
                other_storage_hint(home, name) or remedy,
            )
        ]
    )


def _of_another(config: AnyConfig, home: Home, record: StudyRecord) -> InputError:
    name, place = config.name, _shown(home, config.name)
    id = record.notes.get(ID)
    rule = f"{place} has a study of this name that belongs to a different search"
    rule += f", {id}." if id else "."
    rename = "Use a different name, for example with `--set name=NAME`"
    remove = f"remove that search's studies {name}, {name}/final and {name}/test"
    if not _storage(home, name):
        remove = f"remove {place}"
    remedy = other_storage_hint(home, name) or f"{rename}, or {remove}."
    return InputError([ErrorDetail("name", rule, name, remedy), *_changes(config, record)])


def _check_config(
    config: AnyConfig, home: Home, record: StudyRecord | None, *, resume: bool
) -> None:
    path, changes = home.config(config.name), _changes(config, record, resume=resume)
    if not changes and path.exists() and path.read_text(encoding="utf-8") != configs.dump(config):
        try:
            before = configs.data_of(configs.load_config(path))
            changes = _refused(before, config, resume=resume)
        except InputError as error:
            changes = list(error.details)
    if changes:
        rule = f"{path.parent} holds a search of this name with a different config."
        remedy = "Use a different name (`--set name=NAME`), or undo the changes."
        raise InputError([ErrorDetail("name", rule, config.name, remedy), *changes])


def _changes(
    config: AnyConfig, record: StudyRecord | None, *, resume: bool = False
) -> list[ErrorDetail]:
    """The differences between the config and the config in the study; empty if it has none."""
    before = None if record is None else record.notes.get(CONFIG)
    return [] if before is None else _refused(before, config, resume=resume)


def _refused(before: Mapping[str, Any], config: AnyConfig, *, resume: bool) -> list[ErrorDetail]:
    """The differences from an earlier config, without those that a resumed search may have."""
    more = before.get("search", {}).get("trials", math.inf) < config.search.trials
    details = []
    for detail in differences(before, config):
        what = "other workers" if detail.path.startswith(_WORKERS) else ""
        what = "more trials" if more and detail.path == TRIALS else what
        if what and resume:
            continue
        remedy = f"Add `--resume` (`resume=True`) to continue with {what}." if what else ""
        details.append(replace(detail, remedy=remedy))
    return details


def differences(before: Mapping[str, Any], config: AnyConfig) -> Iterator[ErrorDetail]:
    """One error for each key whose value has changed since the search was started."""
    # An old config may break the rules of this version; then it is compared as it is.
    with suppress(InputError):
        # Fills in defaults, so that a key that is new in this version is no difference.
        before = configs.data_of(configs.parse(before))
    old, new = dict(leaves(before)), dict(leaves(configs.data_of(config)))
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in new:
            yield ErrorDetail(
                key, f"was {_short(old[key])} when the search was started; now it is not set."
            )
        elif key not in old:
            rule = f"was not set when the search was started; now it is {_short(new[key])}."
            yield ErrorDetail(key, rule)
        elif old[key] != new[key]:
            rule = f"was {_short(old[key])} when the search was started; now it is"
            yield ErrorDetail(key, f"{rule} {_short(new[key])}.")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every value that is neither a mapping nor a list of mappings."""
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
