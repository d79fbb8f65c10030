"""A study, a folder and the runs in MLflow are of one search, and of no other."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from fewshot.errors.inputs import InputError
from orchestrator import launch
from orchestrator.config.loading import parse
from orchestrator.config.plan import plan_of
from orchestrator.config.sections.config import Config
from orchestrator.record import identity
from orchestrator.record.home import Home
from orchestrator.record.search_records import open_records, read_records
from orchestrator.record.studies.study import StudyRecord, open_storage
from orchestrator.results.export.export import export
from orchestrator.results.leaderboard import summary_of
from orchestrator.search.loop import Stopped
from tests.orchestrator.tiny import config, quiet
from tests.orchestrator.toys import Crash


@pytest.fixture(autouse=True)
def _no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEWTUNE_STORAGE", raising=False)
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(str(tmp_path / "home"))


@pytest.fixture
def database(tmp_path: Path, study_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where all homes keep their studies."""
    url = f"sqlite:///{shutil.copy(study_database, tmp_path / 'studies.db')}"
    monkeypatch.setenv("FEWTUNE_STORAGE", url)
    return url


def run(home: Home, given: Config, *, resume: bool = False, stop: bool = False) -> Any:
    calls = itertools.count()
    return launch.run(
        given,
        home,
        resume=resume,
        placement="inline",
        should_stop=lambda: stop and next(calls) > 0,
    )


def begun(home: Home, given: Config) -> None:
    with pytest.raises(Stopped):
        run(home, given, stop=True)


def said(error: pytest.ExceptionInfo[InputError]) -> dict[str, str]:
    return {input_error.path: str(input_error) for input_error in error.value.details}


def nothing_written(home: Home) -> bool:
    return not home.search("toy").exists()


def test_a_search_whose_folder_was_removed_is_not_taken_for_a_new_one_of_its_name(
    home: Home,
) -> None:
    run(home, config())
    shutil.rmtree(home.search("toy"))
    wider = {"lr/outer": {"low": 1e-4, "high": 0.1}, "lr/inner": 0.01, "lr/adapt": 0.01}
    with pytest.raises(InputError) as error:
        run(home, config(seed=3, steps=4, space=wider))
    details = said(error)
    assert "has a study of this name that belongs to a different search" in details["name"]
    assert f"remove {home.storage('toy')}" in details["name"]
    assert "--set name=NAME" in details["name"]
    assert "was 0 when the search was started; now it is 3." in details["seed"]
    assert "was 2 when the search was started; now it is 4." in details["steps"]
    assert "was 0.01 when the search was started; now it is 0.1." in details["space.lr/outer.high"]
    assert len(details) == 4
    assert nothing_written(home)
    for again in (False, True):
        with pytest.raises(InputError, match=r"different search|no such search"):
            run(home, config(), resume=again)
    for reading in (summary_of, lambda name, home: export(name, home, home.path / "out")):
        with pytest.raises(InputError, match="must be the name of a search in"):
            reading("toy", home)
    Path(home.storage("toy")).unlink()
    assert run(home, config(seed=3)).summary.state == "complete"


@pytest.mark.parametrize("unfinished", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_second_home_on_the_same_database_does_not_take_the_first_ones_search(
    home: Home, database: str, tmp_path: Path, unfinished: bool
) -> None:
    (begun if unfinished else run)(home, config())
    other = Home.at(str(tmp_path / "other"))
    for given in (config(), config(steps=4)):
        for resume in (False, True):
            with pytest.raises(InputError, match=r"different search|no such search"):
                run(other, given, resume=resume)
    assert nothing_written(other)
    with pytest.raises(InputError, match="must be the name of a search in"):
        summary_of("toy", other)
    assert run(home, config(), resume=True).summary.state == "complete"
    assert run(other, config(name="own")).summary.state == "complete"


def test_without_the_storages_variable_a_search_is_not_begun_again(
    home: Home, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWTUNE_STORAGE", f"{database}?password=secret")
    monkeypatch.setattr(
        "orchestrator.record.studies.database.RDBStorage",
        lambda url, **options: _at(url.partition("?")[0]),
    )
    begun(home, config())
    assert "secret" not in home.identity("toy").read_text()
    monkeypatch.delenv("FEWTUNE_STORAGE")
    for resume in (False, True):
        with pytest.raises(InputError) as error:
            run(home, config(), resume=resume)
        (disk_problem,) = said(error).values()
        assert f"there is no study of this search in {home.path}" in disk_problem
        assert f"{database}?password=***: set FEWTUNE_STORAGE to this URL" in disk_problem
    assert not Path(home.storage("toy")).exists()
    with pytest.raises(InputError, match="set FEWTUNE_STORAGE to this URL"):
        summary_of("toy", home)
    monkeypatch.setenv("FEWTUNE_STORAGE", database)  # it is the id that counts
    assert run(home, config(), resume=True).summary.state == "complete"


_at = optuna.storages.RDBStorage


def test_a_search_whose_study_is_gone_is_not_begun_again_in_its_old_folder(home: Home) -> None:
    begun(home, config())
    Path(home.storage("toy")).unlink()
    for resume in (False, True):
        with pytest.raises(InputError) as error:
            run(home, config(), resume=resume)
        (disk_problem,) = said(error).values()
        assert f"remove {home.search('toy')} to start again" in disk_problem
    shutil.rmtree(home.search("toy"))
    assert run(home, config()).summary.state == "complete"


@pytest.mark.parametrize("resume", [False, True])
def test_another_config_is_refused_key_by_key(home: Home, resume: bool) -> None:
    begun(home, config())
    tasks = {
        "train": [{"function": "line"}, {"function": "square"}],
        "validation": [{"function": "sinusoid"}],
        "test": [{"function": "sin3x"}],
    }
    given = config(tasks=tasks, model={"name": "mlp", "hidden": [8, 8]})
    with pytest.raises(InputError) as error:
        run(home, given, resume=resume)
    details = said(error)
    assert "with a different config" in details.pop("name")
    assert "was [4] when the search was started; now it is [8, 8]." in details["model.hidden"]
    assert "was 'sinusoid'" in details["tasks.test.0.function"]
    assert "was not set" in details["tasks.train.1.function"]
    assert all("when the search was started" in text for text in details.values())
    assert all(path.startswith(("tasks.t", "model.hidden")) for path in details)


def test_the_config_that_the_folder_has_is_asked_where_the_study_has_none(home: Home) -> None:
    begun(home, config())
    forget(home, "search_id", "config")
    with pytest.raises(InputError) as error:
        run(home, config(steps=4), resume=True)
    assert "was 2 when the search was started; now it is 4." in said(error)["steps"]


def forget(home: Home, *keys: str) -> None:
    """Take attributes out of the studies, as if an earlier version had made them."""
    path = Path(home.storage("toy"))
    lines = path.read_text().splitlines(keepends=True)
    kept = [x for x in lines if not any(f'"user_attr":{{"{key}"' in x for key in keys)]
    assert len(kept) < len(lines)
    path.write_text("".join(kept))


def test_a_search_of_an_earlier_version_goes_on_and_gets_an_id(home: Home) -> None:
    begun(home, config())
    forget(home, "search_id", "config")
    home.identity("toy").unlink()
    assert summary_of("toy", home).state == "stopped"
    assert run(home, config(), resume=True).summary.state == "complete"
    records = read_records("toy", home)
    assert records is not None
    own = identity.identity_of(home, "toy")
    assert own is not None
    assert {r.notes["search_id"] for r in vars(records).values()} == {own.id}
    assert parse(records.search.notes["config"]) == config()


def test_a_config_to_which_a_later_version_added_a_key_is_the_same(home: Home) -> None:
    begun(home, config())
    text = home.config("toy").read_text()
    assert "weights_as: loss\n" in text
    home.config("toy").write_text(text.replace("    weights_as: loss\n", ""))
    assert run(home, config(), resume=True).summary.state == "complete"


def test_a_damaged_identity_is_found_again_in_the_journal_of_the_same_home(home: Home) -> None:
    begun(home, config())
    before = identity.identity_of(home, "toy")
    home.identity("toy").write_text('{"id"')
    assert summary_of("toy", home).state == "stopped"
    assert run(home, config(), resume=True).summary.state == "complete"
    assert identity.identity_of(home, "toy") == before


def test_finals_that_are_left_of_another_search_are_refused(home: Home, database: str) -> None:
    run(home, config())
    optuna.delete_study(study_name="toy", storage=database)
    shutil.rmtree(home.search("toy"))
    with pytest.raises(InputError, match="toy, toy/final and toy/test"):
        run(home, config())


WRITES = (
    (identity, "write_text"),
    (StudyRecord, "note"),
    (optuna.storages.JournalStorage, "create_new_study"),
    (optuna.storages.RDBStorage, "create_new_study"),
)


def dying(patch: pytest.MonkeyPatch, k: int) -> None:
    """Die before the k-th of the writes from here on."""
    left = iter(range(k))

    def guarded(write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise Crash
            return write(*arguments)

        return call

    for owner, name in WRITES:
        patch.setattr(owner, name, guarded(getattr(owner, name)))


def start(home: Home, resume: bool = False) -> None:
    """A search as far as to its first trial."""
    launch._before(config(), home, resume, whole=False)
    with home.owned("toy"), open_storage(home.storage("toy")) as storage:
        identity.assign_id(config(), home, open_records(plan_of(config()), storage))


def killed(home: Home, k: int, *, resume: bool) -> bool:
    """Start, and die before the k-th write; whether there were so many."""
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, k)
        try:
            start(home, resume)
        except Crash:
            return True
    return False


def goes_on(home: Home) -> None:
    """With --resume or without it, and leaves all that belongs together."""
    try:
        start(home)
    except InputError:
        start(home, resume=True)
    own, records = identity.identity_of(home, "toy"), read_records("toy", home)
    assert own is not None
    assert records is not None
    assert {r.notes["search_id"] for r in vars(records).values()} == {own.id}
    assert parse(records.search.notes["config"]) == config()
    assert home.searches() == ["toy"]


@pytest.mark.parametrize("storage", ["journal", "database"])
def test_wherever_a_start_is_killed_the_next_one_goes_on(
    tmp_path: Path, storage: str, study_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(20):
        if storage == "database":
            database = shutil.copy(study_database, tmp_path / f"{k}.db")
            monkeypatch.setenv("FEWTUNE_STORAGE", f"sqlite:///{database}")
        home = Home.at(str(tmp_path / str(k)))
        more = killed(home, k, resume=False)
        goes_on(home)
        if not more:
            break
    assert k == 3 + 2 + 4


def test_wherever_the_first_start_by_this_version_is_killed_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    for k in range(20):
        home = Home.at(str(tmp_path / str(k)))
        start(home)
        with open_storage(home.storage("toy")) as storage:
            open_records(plan_of(config()), storage).search.ask({"lr/outer": 0.01})
        forget(home, "search_id", "config")
        home.identity("toy").unlink()
        more = killed(home, k, resume=True)
        goes_on(home)
        if not more:
            break
    assert k == 2 + 4
