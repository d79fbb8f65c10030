"""The Python interface, on one small search that the tests share."""

import json
import re
import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest

import orchestrator
from fewshot.errors.inputs import FewtuneError
from orchestrator import InputError, Search, Stopped, delete_search, list_searches
from tests.paths import ROOT

SMALL = [
    "search.trials=6",
    "search.reference_trials=2",
    "search.finalists=1",
    "search.seeds=2",
    "search.rungs=[]",  # so that a searched trial completes
    "steps=12",
    "episodes.validation=10",
    "episodes.test=10",
    "learner.adapt_steps=2",
]


TINY = ["search.trials=2", "steps=4"]


def small(home, *overrides) -> Search:
    path = ROOT / "configs" / "functions.yaml"
    return Search.from_yaml(path, home=home, overrides=[*SMALL, *overrides])


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> Search:
    made = small(tmp_path_factory.mktemp("api"))
    made.run(executor="inline")
    return made


@pytest.fixture
def copied(search, tmp_path) -> Search:
    """A search of one's own, in a home that was moved."""
    home = tmp_path / "home"
    shutil.copytree(search.home, home)
    return Search.open(search.name, home=home)


def test_trials_are_a_row_each(search):
    table = search.trials()
    assert isinstance(table, pd.DataFrame)
    assert list(table.index) == list(range(6))
    assert table.index.name == "trial"
    assert set(table.state) <= {"complete", "pruned"}
    weights = table.filter(like="lambda/")
    assert list(weights) == [
        f"lambda/{t}" for t in ("sin3x", "square", "line", "quadratic", "noise")
    ]
    assert weights.sum(axis=1).to_numpy() == pytest.approx(1)
    assert table["lr/outer"].between(3e-4, 3e-2).all()
    last = f"score@{search.config['steps']}"
    finished = table[table.state == "complete"]
    assert finished[last].to_numpy() == pytest.approx(finished.score.to_numpy())
    assert table[table.state == "pruned"][last].isna().all()
    assert (table.seconds > 0).all()
    assert (table.reason != "").all()


def test_the_study_has_task_weights_by_name(search):
    study = search.study()
    assert isinstance(study, optuna.Study)
    table = search.trials()
    for trial in study.trials:
        row = table.loc[trial.number]
        assert all(row[name] == value for name, value in trial.params.items())
        assert (trial.state.name == "PRUNED") == (row.state == "pruned")
    assert study.best_value == table[table.state == "complete"].score.max()
    assert not any("ilr" in name for name in study.best_params)
    optuna.visualization.matplotlib.plot_parallel_coordinate(study)


def test_the_summary_is_that_of_the_command_line(search):
    assert search.summary().verdict in ("better", "no better", "undecided")
    assert (search.home / "searches" / search.name / "best" / "model.safetensors").exists()
    assert search.sent


def test_the_summary_has_an_explanation_and_mlflow_has_its_table(search):
    found = search.summary().explanation
    assert [e.task for e in found.effects] == ["sin3x", "square", "line", "quadratic", "noise"]
    assert {e.verdict for e in found.effects} == {"cannot be told"}, "six trials are too few"
    client = mlflow_client(search)
    (run,) = [r for r in runs(client) if r.data.tags["fewtune.kind"] == "search"]
    assert run.data.tags["fewtune.harms"] == ""
    path = client.download_artifacts(run.info.run_id, "explanation.json")
    assert json.loads(Path(path).read_text()) == found.table()


def test_an_export_is_written(search, tmp_path):
    out = search.export(tmp_path / "best")
    assert (out / "config.yaml").exists()


def test_a_finished_search_is_not_run_again(copied):
    before = copied.trials()
    copied.run(executor="inline")
    pd.testing.assert_frame_equal(copied.trials(), before)


def test_a_search_that_was_stopped_is_resumed_and_shows_its_progress_on_request(tmp_path, capfd):
    made = small(tmp_path, "search.trials=4", "steps=4")
    turns = []
    with pytest.raises(Stopped):
        made.run(executor="inline", should_stop=lambda: len(turns) > 0 or turns.append(1))
    assert list_searches(tmp_path)[0].state == "stopped"
    assert made.summary().state == "stopped"
    with pytest.raises(InputError, match="--resume"):
        made.run(executor="inline")
    assert capfd.readouterr() == ("", "")
    assert made.run(executor="inline", resume=True, progress=True).state == "complete"
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "searching" in printed.err


def test_a_config_may_be_a_dictionary(search):
    made = Search(search.config, home=search.home)
    assert made.summary().to_dict() == search.summary().to_dict()


def test_every_error_of_a_config_is_in_the_exception(search):
    wrong = search.config | {"steps": -1, "episodes": {"shot": "many"}}
    with pytest.raises(InputError) as caught:
        Search(wrong)
    assert {detail.path for detail in caught.value.details} >= {"steps", "episodes.shot"}
    assert isinstance(caught.value, FewtuneError)


def test_check_forecasts_the_cost(tmp_path):
    found = small(tmp_path).check()
    assert found.seconds > 0
    assert found.lanes >= 1
    assert not (tmp_path / "searches").exists()


def test_check_and_run_find_the_errors_of_all_options(tmp_path):
    maml = "{name: maml, inner_steps: {choices: [1, 0]}}"
    learners = f"learner={{choices: [{maml}, {{name: reptile, inner_steps: -2}}]}}"
    made = small(tmp_path, learners)
    for ask in (made.check, lambda: made.run(executor="inline")):
        with pytest.raises(InputError) as caught:
            ask()
        assert {(d.path, d.found) for d in caught.value.details} == {
            ("learner.choices.0.inner_steps.choices.1", 0),
            ("learner.choices.1.inner_steps", -2),
        }
    assert not (tmp_path / "searches").exists()


def test_a_name_that_no_search_has_is_refused(tmp_path):
    for ask in (
        lambda: Search.open("none", home=tmp_path),
        lambda: delete_search("none", home=tmp_path),
        lambda: small(tmp_path).trials(),
    ):
        with pytest.raises(InputError, match="must be the name of a search in"):
            ask()


def test_searches_are_listed_with_their_state(search):
    (found,) = list_searches(search.home)
    assert (found.name, found.state, found.trials, found.planned) == (search.name, "complete", 6, 6)
    assert found.best == search.summary().best.score.mean
    assert 0 <= found.age < 3600


def test_only_what_is_documented_can_be_imported():
    assert set(orchestrator.__all__) <= set(dir(orchestrator.api)) | {
        "ErrorDetail",
        "InputError",
    } | {"FewtuneError"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = orchestrator.nothing


class TestDeletion:
    def test_removes_studies_files_and_runs(self, copied):
        client = mlflow_client(copied)
        assert runs(client)
        delete_search(copied.name, home=copied.home)
        assert list_searches(copied.home) == []
        assert runs(client) == []
        assert not (copied.home / "searches" / copied.name).exists()
        assert not list((copied.home / "studies").iterdir())

    def test_leaves_other_searches_alone(self, copied, capfd):
        other = small(copied.home, "name=other", *TINY)
        assert other.run(executor="inline").state == "complete"
        assert capfd.readouterr() == ("", ""), "progress was not requested"
        mine = {run.data.tags["fewtune.search"] for run in runs(mlflow_client(copied))}
        assert mine == {"functions", "other"}
        delete_search(copied.name, home=copied.home)
        assert [found.name for found in list_searches(copied.home)] == ["other"]
        left = {run.data.tags["fewtune.search"] for run in runs(mlflow_client(copied))}
        assert left == {"other"}
        assert other.summary().state == "complete"

    def test_is_refused_while_the_search_runs(self, copied):
        from orchestrator.record.home import Home

        with (
            Home(copied.home).owned(copied.name),
            pytest.raises(InputError, match="running already"),
        ):
            delete_search(copied.name, home=copied.home)
        assert copied.summary()

    def test_deletes_nothing_while_mlflow_is_away(self, copied, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(FewtuneError, match="Nothing else was deleted"):
            delete_search(copied.name, home=copied.home)
        assert copied.summary().state == "complete"

    def test_in_a_database_leaves_the_studies_of_others(self, copied, study_database, monkeypatch):
        url = f"sqlite:///{shutil.copy(study_database, copied.home / 'studies.db')}"
        monkeypatch.setenv("FEWTUNE_STORAGE", url)
        small(copied.home, "name=one", *TINY).run(executor="inline")
        optuna.create_study(study_name="two", storage=url)
        delete_search("one", home=copied.home)
        assert optuna.get_all_study_names(url) == ["two"]


def mlflow_client(search):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{search.home / 'mlflow.db'}")


def runs(client):
    ids = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(ids))


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    small_one = example.replace('home="runs")', f'home="runs", overrides={[*SMALL, *TINY]!r})')
    small_one = small_one.replace("quickstart.yaml", "functions.yaml")
    small_one = small_one.replace(".run(", '.run(executor="inline", ')
    assert small_one.count("executor") == 1
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    exec(compile(small_one, "python.md", "exec"), {})
    assert (tmp_path / "best" / "model.safetensors").exists()


def test_an_unknown_executor_is_refused(tmp_path):
    with pytest.raises(InputError, match="executor: must be inline or ray"):
        small(tmp_path / "home").run(executor="local")
    assert not (tmp_path / "home").exists()


CHOICES = [
    "name=recipes",
    "search.rungs=[0.5]",
    "search.trials=8",
    "search.lanes=2",
    "learner={choices: [{name: reptile, inner_steps: 2, adapt_steps: 2},"
    " {name: maml, adapt_steps: 2, inner_steps: {low: 1, high: 2, step: 1}}]}",
    "steps={choices: [4, 12]}",
]


def test_a_search_over_recipes(tmp_path):
    made = small(tmp_path / "home", *CHOICES)
    asked = 0

    def stops() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    with pytest.raises(Stopped):
        made.run(executor="inline", should_stop=stops)
    summary = made.run(executor="inline", resume=True)
    table = made.trials()
    assert set(table.learner) == {"reptile", "maml"}
    assert set(table.steps) == {4, 12}
    read = table["learner.maml.inner_steps"].notna()
    assert (read == (table.learner == "maml")).all()
    assert table.filter(like="score@").columns.tolist() == ["score@2", "score@4"]
    assert summary.occupancy > 0.5
    study = made.study()
    assert study.trials[0].distributions["learner"].choices == ("reptile", "maml")
    assert {n for t in study.trials for n in t.params} >= {"steps", "learner.maml.inner_steps"}
    made.export(tmp_path / "best")
    exported = Search.from_yaml(tmp_path / "best" / "config.yaml", home=tmp_path / "home")
    assert "choices" not in str(exported.config)
    chosen = exported.config["learner"]["name"], exported.config["steps"]
    assert chosen == (summary.best.choices["learner"], summary.best.choices["steps"])
