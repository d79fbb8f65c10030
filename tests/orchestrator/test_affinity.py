"""A search measures the affinity of its training tasks before its first trial, once."""

from orchestrator import launch
from orchestrator.config.loading import load_config
from orchestrator.record.home import Home
from orchestrator.record.search_records import read_records
from orchestrator.sampling.sampler import Sampler
from tests.orchestrator.tiny import quiet
from tests.paths import ROOT

SMALL = ["search.trials=2", "search.reference_trials=1", "search.finalists=1", "search.seeds=2"]
SMALL += ["steps=2", "episodes.validation=5", "episodes.test=5", "search.lanes=1"]


def test_the_sampler_gets_the_affinity_that_the_study_keeps(
    tmp_path, monkeypatch, home_with_glyphs
):
    monkeypatch.setattr("orchestrator.tracking.sending.mlflow_sender.recorder", quiet)
    got, measured = [], []
    start, measure = Sampler.__init__, launch.affinities

    def spy(self, space, seed, affinity):
        got.append(dict(affinity))
        start(self, space, seed, affinity)

    monkeypatch.setattr(Sampler, "__init__", spy)
    monkeypatch.setattr(launch, "affinities", lambda *a: measured.append(a) or measure(*a))
    config = load_config(ROOT / "configs" / "quickstart.yaml", SMALL)
    home = Home.at(str(home_with_glyphs(tmp_path)))
    launch.run(config, home, placement="inline")
    launch.run(config, home, placement="inline", resume=True)
    kept = read_records(config.name, home).search.notes["affinity"]
    assert kept.keys() == set(config.train_names())
    assert kept["latin_shuffled"] < 0.2 < kept["greek"]
    assert [found for found in got if found] == [kept] * (len(got) - got.count({}))
    assert kept in got
    assert len(measured) == 1
