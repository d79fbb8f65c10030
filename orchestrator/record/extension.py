"""More trials for a search that was started before."""

from fewshot.errors.inputs import input_error
from orchestrator.config import loading as configs
from orchestrator.config.sections.own_loop import AnyConfig
from orchestrator.record import identity
from orchestrator.record.home import Home
from orchestrator.record.studies.study import read_study

_RESUME = "Add `--resume` (`resume=True`). For a new search, set search.trials."


def with_trials(config: AnyConfig, home: Home, trials: int | None, *, resume: bool) -> AnyConfig:
    """The config with the number of trials that the search is to have in all.

    trials: None for the number in the config. A search that got more trials than its file says
    keeps them if it is resumed with the unchanged file.

    Raises InputError if `trials` is given for a search that is not resumed, or if the search
    planned more trials than `trials`.
    """
    record = read_study(home.storage(config.name), config.name)
    planned = identity.planned_trials(home, config.name, record)
    if trials is None:
        former = () if record is None else record.notes.get(identity.FORMER, ())
        trials = planned if config.search.trials in former else None
        return config if trials is None else _with(config, trials)
    if not resume:
        rule = "is for a search that was started before."
        raise input_error("--trials", rule, trials, _RESUME)
    if record is not None and planned is not None and trials < planned:
        ended = sum(t.state != "running" for t in record.trials())
        early = ", and stopped early" if identity.stopped_early(record) else ""
        rule = f"must be at least {planned}, the number of trials that the search planned"
        rule += f"; {ended} have ended{early}."
        raise input_error("--trials", rule, trials, "Give this number or a larger one.")
    return _with(config, trials)


def _with(config: AnyConfig, trials: int) -> AnyConfig:
    data = configs.data_of(config)
    return configs.parse(data | {"search": data["search"] | {"trials": trials}})
