"""Other forms of an exported or adapted model: ONNX, and MLflow's model registry."""

import re
from pathlib import Path

from fewshot.errors.inputs import ErrorDetail, InputError
from fewshot.tasks.files import write_text
from orchestrator.config import loading as configs
from orchestrator.config.sections.config import Config
from orchestrator.record.home import Home
from orchestrator.results.export.mlflow_model import register_model
from orchestrator.results.predictor.as_onnx.onnx_model import card_lines, check_packages, write_onnx
from orchestrator.results.predictor.card import section
from orchestrator.results.predictor.folder import is_predictor, load_predictor

_ONNX = "ONNX"  # the title of its section in the card


def check_target(
    name: str,
    home: Home,
    out: Path | None,
    *,
    merged: bool,
    onnx: bool,
    with_encoder: bool,
    mlflow: bool,
) -> Path | None:
    """The folder of the predictor that `name` is; None if it is a search.

    Raises InputError with all options that can't be used together, before anything is written.
    """
    folder = Path(name)
    of_search = name in home.searches() or not is_predictor(folder)
    details: list[ErrorDetail] = []
    if with_encoder and not onnx:
        details.append(
            ErrorDetail("--with-encoder", "is an option of --onnx.", None, "Add --onnx.")
        )
    if onnx:
        try:
            check_packages()
        except InputError as error:
            details += error.details
    if of_search:
        if (onnx or mlflow) and name in home.searches():
            details += _of_search(configs.load_config(home.config(name)), onnx=onnx)
    else:
        given = {"--out": out is not None, "--merged": merged}
        rule = "is for a search; an adapted model stays in its folder."
        details += [
            ErrorDetail(key, rule, None, "Leave it out.") for key, on in given.items() if on
        ]
        if not (onnx or mlflow):
            rule = "is the folder of an adapted model, which can be written or registered."
            details.append(ErrorDetail("DIR", rule, name, "Add --onnx or --mlflow."))
    if details:
        raise InputError(details)
    return None if of_search else folder


def _of_search(config: object, *, onnx: bool) -> list[ErrorDetail]:
    if not isinstance(config, Config):
        rule = "is for models of fewtune, not for those of your own training function."
        return [ErrorDetail("--onnx" if onnx else "--mlflow", rule)]
    if onnx and not config.adapts:
        rule = "is for an adapted model; the model of this search must first learn a task."
        remedy = "fewtune adapt DIR --data EXAMPLES --out mine, then fewtune export mine --onnx."
        return [ErrorDetail("--onnx", rule, config.name, remedy)]
    return []


def write_onnx_model(folder: Path, *, with_encoder: bool) -> list[str]:
    """Write `model.onnx` to the folder of a predictor; returns the lines of its card about it."""
    parts = load_predictor(folder)
    made = write_onnx(parts, folder, with_encoder=with_encoder)
    lines = card_lines(made, parts)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else f"# {parts.name}\n"
    # An earlier section is replaced; it ends at the next title or with the file.
    text = re.sub(rf"\n## {_ONNX}\n.*?(?=\n## |\Z)", "", text, flags=re.DOTALL)
    write_text(card, text.rstrip("\n") + "\n" + section(_ONNX, lines))
    return lines


def register(folder: Path, name: str, home: Home) -> str:
    """Register the model of a search's export or of a predictor; returns what was done, in words.

    The registered model is called like the search, or like the folder of the predictor.
    """
    own = Path(name).name if is_predictor(folder) and name not in home.searches() else name
    version = register_model(folder, own, home.tracking_uri)
    needs = "" if is_predictor(folder) else " Requests hold labelled examples, see docs/predict.md."
    return (
        f"registered in MLflow: models:/{own}@champion (version {version}). "
        f"MLFLOW_TRACKING_URI={home.tracking_uri} mlflow models serve -m models:/{own}@champion "
        f"--env-manager local.{needs}"
    )
