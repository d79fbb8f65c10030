"""The commands that export a model, train it again, or adapt it to a new task."""

import json as jsons
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.output import RESULTS, Config, HomeOption, Json, Output, Set, Trust

app = typer.Typer()


@app.command(rich_help_panel=RESULTS)
def export(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR",
            help="A search; or, with --onnx or --mlflow, the folder of an adapted model.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new or empty folder, or an earlier export. "
            "[default: searches/NAME/best in the home]",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Also write the trained encoder for transformers.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also write the adapted model as model.onnx.")
    ] = False,
    with_encoder: Annotated[
        bool, typer.Option("--with-encoder", help="With --onnx: the encoder of texts inside.")
    ] = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also register the model in MLflow as champion.")
    ] = False,
) -> None:
    """Write the best configuration and model of a search to a folder; write or register a model."""
    from orchestrator.record.home import Home
    from orchestrator.results.export.export import export as write
    from orchestrator.results.export.formats import check_target, register, write_onnx_model
    from orchestrator.results.sentences import sentence

    output, place = Output(), Home.at(home)
    folder = check_target(
        name, place, out, merged=merged, onnx=onnx, with_encoder=with_encoder, mlflow=mlflow
    )
    if folder is None:
        folder = out or place.best(name)
        output.results.print(sentence(write(name, place, folder, merged=merged)))
    if onnx:
        with output.messages.status("writing the ONNX model"):
            lines = write_onnx_model(folder, with_encoder=with_encoder)
        output.results.print("\n".join(lines), markup=False)
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    output.results.print(f"written to {folder}: {files}")
    if mlflow:
        with output.messages.status("registering the model"):
            output.results.print(register(folder, name, place), markup=False)


@app.command(rich_help_panel=RESULTS)
def train(
    config: Config,
    set_: Set = None,
    home: HomeOption = None,
    trust_code: Trust = False,
    json: Json = False,
) -> None:
    """Train an exported configuration again."""
    from orchestrator.config.loading import few_shot, load_config
    from orchestrator.config.paths import export_with_absolute_paths
    from orchestrator.record.home import Home
    from orchestrator.results.new_tasks.train import train as run

    output = Output()
    loaded = few_shot(load_config(config, set_ or (), foreign=True, trust_code=trust_code))
    loaded = export_with_absolute_paths(loaded, config.parent)
    with output.messages.status("training"):
        found = run(loaded, Home.at(home))
    score = found.validation.score.mean
    if json:
        test = {k: v for k, v in found.test.metrics.items() if k.startswith("test/")}
        output.json({"score": score, "test": test})
        return
    output.results.print(f"score on fresh validation episodes: {score:.4f}")
    measure, mean = found.tested
    output.results.print(f"{measure} on the test tasks: {100 * mean:.1f} %")
    exported = config.parent / "result.json"
    if exported.exists():
        before = jsons.loads(exported.read_text(encoding="utf-8"))["score"]
        output.results.print(f"the export had a score of {before:.4f}")


@app.command(rich_help_panel=RESULTS)
def adapt(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported model.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Examples of the new task, of the same kind as the model's data: a table (CSV, "
            "JSONL, Parquet), an .npz of images, or a folder with one folder of images per class.",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Instead of data: an environment of gymnasium, for a policy of worlds.",
            show_default=False,
        ),
    ] = None,
    env_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="An argument of the environment.", show_default=False
        ),
    ] = None,
    shots: Annotated[int, typer.Option(help="Labelled examples (of each class).")] = 5,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column to predict. [default: the model's own, or label]",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The titles of the images. [default: the file of the model's own name in PATH]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where predictions and the adapted model are written."),
    ] = Path("adapted"),
    home: HomeOption = None,
    trust_code: Trust = False,
) -> None:
    """Adapt an exported model to a new task, predict its other examples, and keep the model."""
    from orchestrator.record.home import Home
    from orchestrator.results.new_tasks.adapt import adapt as run
    from orchestrator.results.new_tasks.policy import adapt_from_command

    output = Output()
    if env is not None or data is None:
        lines = adapt_from_command(folder, data, env, env_arg or (), out, trust_code=trust_code)
        output.results.print("\n".join(lines), markup=False)
        return
    found = run(
        folder,
        data,
        shots=shots,
        label=label,
        out=out,
        home=Home.at(home),
        trust_code=trust_code,
        text=text,
    )
    what = f"{found.classes} classes" if found.classes else "numbers"
    others = f", predicted {found.predicted} others: {found.predictions}"
    output.results.print(
        f"learned {what} from {found.support} examples{others if found.predictions else ''}"
    )
    for name, value in found.metrics.items():
        shown = f"{value:.4g}" if name == "mse" else f"{100 * value:.1f} %"
        output.results.print(f"{name} where the label is known: {shown}")
    output.results.print(f"the adapted model: {out}; it predicts with `fewtune predict {out}`")
    if found.unlike:
        output.advise(found.unlike)


@app.command(rich_help_panel=RESULTS)
def predict(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What adapt wrote, or an exported student."),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Examples of the kind that the model learned from: a table (CSV, JSONL, Parquet), "
            "an .npz of images, or a folder of images.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="A .csv, .jsonl or .parquet file.")
    ] = Path("predictions.csv"),
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure the predictions by the label column.")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The label column. [default: the one that the model learned]",
            show_default=False,
        ),
    ] = None,
    trust_code: Trust = False,
    json: Json = False,
) -> None:
    """Predict new examples with an adapted model, which needs no labelled examples any more."""
    from orchestrator.cli.results.counting import counting
    from orchestrator.results.predictor.prediction import predict_file
    from orchestrator.results.predictor.predictor import Predictor

    output = Output()
    predictor = Predictor.load(folder, trust_code=trust_code)
    with counting(output.messages, "predicting") as started:
        found = predict_file(predictor, data, out, evaluate=evaluate, label=label, started=started)
    if json:
        measures = {name: measured._asdict() for name, measured in found.measures.items()}
        output.json({"path": str(out), "predicted": found.predicted, "measures": measures})
        return
    output.results.print(f"predicted {found.predicted} examples: {out}")
    for name, (value, low, high) in found.measures.items():
        if name == "mse":
            ends = f"{value:.4g} ({low:.4g} to {high:.4g}"
        else:
            ends = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f}"
        output.results.print(f"{name}: {ends}; 95 % interval, {found.measured} examples)")
