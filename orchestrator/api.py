"""The Python interface: a search as an object, and the searches of a home.

Nothing here prints. Bad input raises InputError, which has every error in `details`; a search that
fails raises FewtuneError; their text is what the command line shows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from orchestrator import launch
from orchestrator.config import loading, paths
from orchestrator.config.plan import Plan, plan_of
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.launch import Placement
from orchestrator.progress import ProgressBar
from orchestrator.record.enqueued import EnqueuedTrials
from orchestrator.record.extension import with_trials
from orchestrator.record.home import Home
from orchestrator.record.search_records import SearchRecords, read_records
from orchestrator.record.studies.readable_study import readable_study
from orchestrator.record.studies.study import StudyRecord
from orchestrator.results import listing
from orchestrator.results.export.export import export
from orchestrator.results.leaderboard import Summary, summary_of
from orchestrator.results.listing import ListedSearch
from orchestrator.results.new_tasks.policy import Policy
from orchestrator.results.predictor.predictor import Predictor
from orchestrator.results.similarity.similarity import TaskSimilarity, measured
from orchestrator.results.trial_table import trial_table
from orchestrator.search.advice import Advice
from orchestrator.search.decisions.own_trials import by_name, params_of
from orchestrator.search.forecast import Forecast, forecast
from orchestrator.search.loop import Stopped
from orchestrator.training_function import config_of
from trials.own_loop import Trial

__all__ = ["Policy", "Predictor", "Search", "Stopped", "delete_search", "list_searches"]

Observer = Callable[[str, SearchRecords], None]


class Search:
    """A search: a config, and the home folder in which its state is stored.

    config: the content of a YAML file, as a dictionary, or a training function of your own (see
    docs/own_loop.md). home: the folder of all searches; None for FEWTUNE_HOME or else
    `./fewtune-runs`. folder: the start of relative paths in the config, by default the working
    directory. parts: with a training function, the other keys of its config, for example
    `Search(train, tasks=["a", "b"], validation=["c"], space={"rate": 0.1}, steps=100)`.

    Raises InputError with every error in the config.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | AnyConfig | Callable[[Trial], Iterator[Any]],
        *,
        home: str | Path | None = None,
        folder: str | Path | None = None,
        **parts: Any,
    ) -> None:
        if callable(config):
            config = config_of(config, parts)
        elif parts:
            raise TypeError(f"{', '.join(parts)}: keys beside a config need a training function.")
        self._config = loading.parse(config) if isinstance(config, Mapping) else config
        self._home = Home.at(None if home is None else str(home))
        self._folder = Path(folder) if folder is not None else Path.cwd()
        self.sent = True  # False if MLflow has not received all events of the last run
        self.runs_left: int | None = None  # that MLflow does not have, while `run` waits for it

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        *,
        home: str | Path | None = None,
        overrides: Sequence[str] = (),
        trust_code: bool = False,
    ) -> "Search":
        """The search that a YAML file describes.

        overrides: `key=value` texts, such as `search.trials=16`. trust_code: whether to run code
        that a config in an export names.
        """
        path = Path(path)
        foreign = paths.is_export(path)
        config = loading.load_config(path, overrides, foreign=foreign, trust_code=trust_code)
        return cls(config, home=home, folder=path.parent)

    @classmethod
    def open(cls, name: str, *, home: str | Path | None = None) -> "Search":
        """The search `name`, which was started before; raises InputError if there is none."""
        found = Home.at(None if home is None else str(home))
        if name not in found.searches():
            raise found.unknown(name)
        config = loading.load_config(found.config(name))
        records = read_records(name, found)
        folder = None if records is None else records.search.notes.get("folder")
        return cls(config, home=found.path, folder=folder)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def home(self) -> Path:
        """The folder of all searches, an absolute path."""
        return self._home.path

    @property
    def config(self) -> dict[str, Any]:
        """The config as plain values, with all defaults."""
        return loading.data_of(self._config)

    @property
    def plan(self) -> Plan:
        return plan_of(paths.with_absolute_paths(self._config, self._folder))

    def check(self) -> Forecast:
        """Load the data and run a few steps; returns the expected time, memory and advice.

        Raises InputError with every error in the data.
        """
        return forecast(paths.with_absolute_paths(self._config, self._folder), self._home)

    def similarity(self) -> TaskSimilarity:
        """How alike the training tasks are to the validation tasks, with warnings; trains nothing.

        After a search, `agreement(search.similarity().measures, summary.explanation.effects)` of
        `orchestrator.results.similarity.agreement` compares it with the effects found.

        Raises InputError with every error in the data, or if there are no training tasks.
        """
        return measured(self._config, self.plan, self._home)

    def run(
        self,
        *,
        resume: bool = False,
        trials: int | None = None,
        from_search: str | None = None,
        executor: Placement = "ray",
        progress: bool = False,
        observe: Observer | None = None,
        advise: Callable[[Advice], None] = lambda advice: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Summary:
        """Run the search to its end; returns its summary. A finished search is not run again.

        The best configuration and model are exported to `<home>/searches/<name>/best`, and the
        report is `<home>/searches/<name>/report.html`. If MLflow
        cannot be reached, `sent` is false afterwards; the next run of the search sends the rest.

        resume: continue an earlier run of this search. trials: with `resume`, the number of trials
        that the search is to have in all, if it is to have more than before; an ended search then
        continues, and chooses its finalists again. A search that stopped early also continues if
        it is the planned number. from_search: the name of a search in the same
        home; its four best trials are run after the reference trials of this new search.
        executor: `ray`, or `inline` to train in this process. progress: show a progress bar, also
        in a notebook. observe: called with the stage and the records after every change. advise:
        called once for each warning about the search; `summary.advice` has all of them.
        should_stop: called between turns.

        Raises InputError before anything is written, FewtuneError if the search fails, and Stopped
        if `should_stop` returned true. KeyboardInterrupt ends it too; in both cases nothing that
        was reported is lost, and `resume=True` continues.
        """
        self._config = with_trials(self._config, self._home, trials, resume=resume)
        with ProgressBar(self.plan, shown=progress) as bar:

            def observe_both(stage: str, records: SearchRecords) -> None:
                bar.update(stage, records, self.runs_left)
                if observe is not None:
                    observe(stage, records)

            def wait(runs_left: int) -> None:
                self.runs_left = runs_left

            result = launch.run(
                self._config,
                self._home,
                folder=self._folder,
                resume=resume,
                whole=trials is not None,
                from_search=from_search,
                placement=executor,
                observe=observe_both,
                advise=advise,
                should_stop=should_stop,
                waiting=wait,
            )
        self.runs_left = None
        if result.summary.best is not None:
            self.export(self._home.best(self.name))
        self.sent = result.drained
        return replace(result.summary, home=self._home)

    def enqueue(
        self,
        weights: Mapping[str, float] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add a trial of your own; returns its parameters, with weights as `lambda/<task>`.

        The search may be running in another process, or be resumed later. The configuration becomes
        its next trial after the reference trials, and counts as one of its trials.

        weights: by task, with sum 1; tasks that are missing get weight zero. hyperparameters: by
        name. What is not given is that of the best trial so far, or else of the reference.

        Raises InputError with every error in the values, or if there is no such search.
        """
        trials, space = self._record().trials(), self.plan.space
        params = params_of(space, weights, hyperparameters or {}, trials)
        EnqueuedTrials(self._home.enqueued(self.name)).add(params)
        return by_name(space, params)

    def summary(self) -> Summary:
        """The summary of the search so far; another process may be running the search."""
        return summary_of(self.name, self._home)

    def trials(self) -> pd.DataFrame:
        """One row for each trial; the columns are described in `trial_table`."""
        return trial_table(self._record(), self.plan.space)

    def study(self) -> optuna.Study:
        """A copy of the Optuna study with task weights by name, for Optuna's plots."""
        return readable_study(self.name, self._record(), self.plan.space)

    def export(self, out: str | Path, *, merged: bool = False) -> Path:
        """Write the best configuration and model to the folder `out`; returns its path.

        merged: also write the trained encoder (with its LoRA weights added) for transformers, to
            `out/merged`.

        Raises InputError if the search has not ended, if `out` is neither empty nor an export, or
        if the model trains no encoder to write alone.
        """
        export(self.name, self._home, Path(out), merged=merged)
        return Path(out)

    def _record(self) -> StudyRecord:
        self.summary()  # raises InputError if there is no such search
        records = read_records(self.name, self._home)
        assert records is not None, "a search with a summary has records"
        return records.search

    def __repr__(self) -> str:
        return f"Search({self.name!r}, home={str(self.home)!r})"


def list_searches(home: str | Path | None = None) -> list[ListedSearch]:
    """The searches of a home, the most recent first."""
    return listing.list_searches(Home.at(None if home is None else str(home)))


def delete_search(name: str, *, home: str | Path | None = None) -> None:
    """Delete a search with its studies, files and MLflow runs; see `listing.delete_search`."""
    listing.delete_search(Home.at(None if home is None else str(home)), name)
