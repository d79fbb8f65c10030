"""Export of what the training function of the best trial left in its folder."""

import shutil
from pathlib import Path
from typing import Any

from fewshot.errors.inputs import FewtuneError
from fewshot.tasks.files import write_text
from orchestrator.config import loading as configs
from orchestrator.config.sections.own_loop import OwnLoopConfig
from orchestrator.record.studies.study import StudiedTrial
from orchestrator.results.leaderboard import Summary
from orchestrator.results.retrained import Finalist
from trials.own_loop.reports import TrialFolder

FILES = "files"  # the subfolder of an export with the files of the training function


def write_own_loop(
    config: OwnLoopConfig, summary: Summary, chosen: StudiedTrial, checkpoints: Path, folder: Path
) -> dict[str, object]:
    """Write the files and the config of an export to `folder`; returns its result for JSON.

    chosen: the retraining whose files are exported.

    Raises FewtuneError if the folder of the retraining is gone.
    """
    best = summary.best
    assert best is not None, "only an ended search is exported"
    source = TrialFolder(checkpoints, f"final-{chosen.number:04d}").files
    if not source.is_dir():
        raise FewtuneError(
            f"The files of the best finalist are lost: {source}. Restore them from a backup, or "
            "search again under a new name: `--set name=NAME`."
        )
    shutil.copytree(source, folder / FILES)
    write_text(folder / "config.yaml", configs.dump(_fixed(config, best)))
    write_text(folder / "README.md", _card(config, summary, best))
    return {"score": chosen.score, "seed": chosen.notes["seed"], **summary.to_dict()}


def _fixed(config: OwnLoopConfig, best: Finalist) -> OwnLoopConfig:
    """The config with nothing left to search."""
    config = config.variant(best.choices)
    weights: dict[str, object] = {"search": False}
    if best.task_weights:
        weights["fixed"] = dict(best.task_weights)
    space = {"task_weights": weights, **_values(best)}
    data = configs.data_of(config)
    if config.search.kinds:
        del data["search"]["workers"]  # they are for options that are not searched any more
    fixed = configs.parse(data | {"space": space, "path": "."})
    assert isinstance(fixed, OwnLoopConfig), "it has a program"
    return fixed


def _values(best: Finalist) -> dict[str, Any]:
    """The values of all names in `space`. The steps may be searched too, but are not in it."""
    chosen = {name: value for name, value in best.choices.items() if name != "steps"}
    return {**best.hyperparameters, **chosen}


def _card(config: OwnLoopConfig, summary: Summary, best: Finalist) -> str:
    lines = [
        f"# {config.name}",
        "",
        str(summary),
        "",
        f"`{FILES}/` is what `{config.program}` left in its folder. `config.yaml` has the values "
        "below in place of ranges; `result.json` has the result of the search and the seed.",
        "",
        *(
            f"- `{name}`: {value:.6g}" if isinstance(value, float) else f"- `{name}`: {value}"
            for name, value in {**best.choices, **best.hyperparameters}.items()
        ),
        *(f"- `lambda/{task}`: {weight:.4f}" for task, weight in best.task_weights.items()),
        "",
    ]
    return "\n".join(lines)
