"""What the commands do: the only place that prints, or that knows of exit codes.

What takes long to import is imported by the command that needs it, so that --help and a config's
faults come at once.
"""

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape

from fewshot.errors.inputs import FewtuneError

if TYPE_CHECKING:
    from orchestrator.config.sections.config import Config


class Output:
    """Text for people on standard error, results on standard output."""

    def __init__(self) -> None:
        self.said = Console(stderr=True, highlight=False, soft_wrap=True)
        self.result = Console(highlight=False, soft_wrap=True)

    def advise(self, advice: Any) -> None:
        """A warning with its remedy."""
        self.said.print(f"[yellow]note[/yellow] {escape(str(advice))}")

    def json(self, value: Any) -> None:
        """One line that a machine may read."""
        print(json.dumps(value))


def check(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.config.paths import with_absolute_paths
    from orchestrator.record.home import Home
    from orchestrator.search.forecast import forecast

    config = with_absolute_paths(_loaded(options), options.config.parent)
    screen.said.print(f"{options.config}: no faults in the file; trying a few steps ...")
    found = forecast(config, Home.at(options.home))
    for advice in found.advice:
        screen.advise(advice)
    tasks = ", ".join(f"{task} {n}" for task, n in found.task_sizes.items())
    if tasks:
        screen.result.print(f"training tasks (examples): {tasks}")
    for split, n in found.dropped.items():
        screen.result.print(f"left out of {split}: {n} examples that a later split has too")
    for name, value in found.figures.items():
        screen.result.print(f"accuracy of the {name}: {100 * value:.1f} %")
    screen.result.print(
        f"search: about {_duration(found.seconds)} on this machine, "
        f"{config.search.trials} trials of {config.steps} steps, "
        f"{1000 * found.seconds_per_step:.1f} ms a step and lane"
    )
    screen.result.print(
        f"lanes: {found.lanes}, with about {found.bytes_per_lane / 2**20:.0f} MB of memory each"
    )
    return 0


def _loaded(options: argparse.Namespace, *, foreign: bool | None = None) -> "Config":
    """The config of the command line; `foreign` if somebody else may have made it."""
    from orchestrator.config import paths as locations
    from orchestrator.config.loading import load_config

    if foreign is None:
        foreign = locations.is_export(options.config)
    trusted = options.trust_code
    return load_config(options.config, options.set, foreign=foreign, trust_code=trusted)


def search(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.cli.progress import ProgressDisplay
    from orchestrator.config.plan import plan_of
    from orchestrator.launch import run
    from orchestrator.record.home import Home
    from orchestrator.results.export import export
    from orchestrator.search.loop import Stopped

    config, home = _loaded(options), Home.at(options.home)
    again = shlex.join(["fewtune", *(word for word in options.typed if word != "--resume")])
    again += " --resume"
    watch = ProgressDisplay(screen.said, plan_of(config))
    with watch, _interruptible(screen, lambda: watch.begun) as asked:
        try:
            ended = run(
                config,
                home,
                folder=options.config.parent,
                resume=options.resume,
                placement=options.executor,
                observe=watch,
                advise=screen.advise,
                should_stop=lambda: bool(asked),
            )
        except (Stopped, KeyboardInterrupt):
            if not watch.begun:
                raise
            # Not as markup: what was typed may have brackets.
            said = f"stopped; nothing reported is lost. To go on: {again}"
            screen.said.print(said, markup=False)
            return 130
        best = home.search(config.name) / "best"
        if ended.summary.best is not None:
            export(config.name, home, best)
    _show(options, screen, ended.summary.name, home)
    if not ended.drained:
        said = f"MLflow has not taken in the whole record; it is kept. To send it: {again}"
        screen.said.print(said, style="yellow", markup=False)
        return 1
    return 0


def show(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.record.home import Home

    _show(options, screen, options.name, Home.at(options.home))
    return 0


def _show(options: argparse.Namespace, screen: Output, name: str, home: Any) -> None:
    from orchestrator.cli.progress import leaderboard
    from orchestrator.results.leaderboard import summary_of
    from orchestrator.results.sentences import sentence

    summary = summary_of(name, home)
    if options.json:
        screen.json(summary.to_dict())
        return
    screen.result.print(leaderboard(summary))
    screen.result.print(sentence(summary))
    for advice in summary.advice:
        screen.advise(advice)
    for who, value in summary.figures.items():
        screen.result.print(f"For comparison, the {who}: {100 * value:.1f} %.")
    best = home.search(name) / "best"
    if (best / "config.yaml").exists():
        screen.result.print(f"\nbest configuration and model: {best}")
    screen.result.print(f"dashboard: fewtune dashboard --home {home.path}")


def dashboard(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.record.home import Home
    from orchestrator.tracking.dashboard import server

    home = Home.at(options.home)
    signal.signal(signal.SIGTERM, _interrupt)  # else the server would outlive us
    running = server(home.path, options.port)
    if not running.base.endswith(f":{options.port}"):
        other = running.base.rpartition(":")[2]
        screen.said.print(f"port {options.port} is in use by another program; taking {other}")
    try:
        running.wait(120.0)
        screen.result.print(f"MLflow dashboard: {running.url}")
        for link in _search_links(running.base, home):
            screen.result.print(link)
        screen.said.print("Ctrl-C ends it.")
        running.process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        running.close()
    return 0


def _search_links(base: str, home: Any) -> Iterator[str]:
    from orchestrator.tracking.dashboard import search_url

    for name in home.searches():
        try:
            yield f"  {name}: {search_url(base, home.tracking_uri, 'fewtune', name)}"
        except FewtuneError:  # begun, but not recorded yet
            continue


def export(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.record.home import Home
    from orchestrator.results.export import export as write
    from orchestrator.results.sentences import sentence

    summary = write(options.name, Home.at(options.home), options.out)
    screen.result.print(sentence(summary))
    screen.result.print(f"written to {options.out}: config.yaml, model.safetensors, README.md")
    return 0


def train(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.config.paths import export_with_absolute_paths
    from orchestrator.record.home import Home
    from orchestrator.results.train import train as run

    config = _loaded(options, foreign=True)
    config = export_with_absolute_paths(config, options.config.parent)
    with screen.said.status("training"):
        found = run(config, Home.at(options.home))
    result = {
        "score": found.validation.score.mean,
        "test": {k: v for k, v in found.test.metrics.items() if k.startswith("test/")},
    }
    if options.json:
        screen.json(result)
        return 0
    screen.result.print(f"score on fresh validation episodes: {found.validation.score.mean:.4f}")
    measure, mean = found.tested
    screen.result.print(f"{measure} on the test tasks: {100 * mean:.1f} %")
    exported = options.config.parent / "result.json"
    if exported.exists():
        before = json.loads(exported.read_text(encoding="utf-8"))["score"]
        screen.result.print(f"the export had a score of {before:.4f}")
    return 0


def adapt(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.record.home import Home
    from orchestrator.results.adapt import adapt as run

    found = run(
        options.folder,
        options.data,
        shots=options.shots,
        label=options.label,
        out=options.out,
        home=Home.at(options.home),
        trust_code=options.trust_code,
    )
    screen.result.print(
        f"learned {f'{found.classes} classes' if found.classes else 'numbers'} from "
        f"{found.support} examples, predicted {found.predicted} others: {found.predictions}"
    )
    for name, value in found.metrics.items():
        shown = f"{value:.4g}" if name == "mse" else f"{100 * value:.1f} %"
        screen.result.print(f"{name} where the label is known: {shown}")
    return 0


def submit(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.executors import jobs
    from trials.programs.teachers import TRAINED

    config = _loaded(options)  # its faults are found here, not over there
    trained = config.teacher is not None and config.teacher.source in TRAINED
    trusted = ["teacher.trust_code=true"] if options.trust_code and trained else []
    submission = jobs.submit(
        options.config,
        name=config.name,
        home=options.home or "fewtune-runs",
        address=options.address,
        overrides=[*options.set, *trusted],
        resume=options.resume,
    )
    screen.result.print(f"submitted as {submission}")
    screen.said.print(f"fewtune logs {config.name} --follow")
    return 0


def status(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.executors import jobs

    found = jobs.status(options.name, address=options.address)
    screen.result.print(f"{found.submission_id}: {found.state} {found.message}".rstrip())
    return 0


def logs(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.executors import jobs

    for text in jobs.logs(options.name, address=options.address, follow=options.follow):
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def stop(options: argparse.Namespace, screen: Output) -> int:
    from orchestrator.executors import jobs

    found = jobs.stop(options.name, address=options.address)
    screen.result.print(f"{found.submission_id}: asked to stop, now {found.state}")
    return 0


@contextmanager
def _interruptible(screen: Output, begun: Callable[[], bool]) -> Iterator[list[int]]:
    """The first SIGINT, SIGTERM or SIGHUP asks for a clean stop, if there is anything that can be
    stopped; the second ends at once."""
    asked: list[int] = []
    terminals = [file for file in (sys.stdout, sys.stderr) if file.isatty()]

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave(terminals)
        if asked or not begun():
            raise KeyboardInterrupt
        asked.append(number)
        screen.said.print("stopping as soon as the workers report; once more to end at once")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(terminals: list[TextIO]) -> None:
    """Write nothing more to terminals that are gone, which would be an error."""
    with open(os.devnull, "w") as nothing:
        for file in terminals:
            if not os.isatty(file.fileno()):
                os.dup2(nothing.fileno(), file.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
