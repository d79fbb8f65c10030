"""Draws the figures of the documentation from a finished quickstart.

    python docs/site/figures.py [--home fewtune-runs]

Writes docs/images/*.svg. Colours are those of Okabe and Ito, with hatches and markers for readers
who do not see them.
"""

import argparse
import math
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fewshot.tasks import glyphs
from orchestrator import Search
from orchestrator.results.leaderboard import Summary

IMAGES = Path(__file__).parents[1] / "images"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", default="fewtune-runs", help="the home of the quickstart")
    home = parser.parse_args().home
    search = Search.open("quickstart", home=home)
    summary = search.summary()
    mpl.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    mpl.rcParams |= {"svg.hashsalt": "fewtune", "figure.constrained_layout.use": True}
    for name, figure in {
        "episode": episode(Path(home) / "cache"),
        "answer": answer(summary),
        "effects": effects(summary),
        "halving": halving(search),
        "optimism": optimism(summary),
    }.items():
        figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


def episode(cache: Path) -> Figure:
    """One 5-way 1-shot episode of the test script Hebrew: examples, and characters to recognise."""
    data = glyphs.load(cache=cache, size=28)
    rows = data.columns[data.columns.script == "hebrew"]
    rng = np.random.default_rng(3)
    characters = rng.choice(sorted(rows.character.unique()), 5, replace=False)
    figure, axes = plt.subplots(2, 5, figsize=(4.2, 1.9))
    for j, character in enumerate(characters):
        of_class = rows.index[rows.character == character].tolist()
        for i, row in enumerate(rng.choice(of_class, 2, replace=False)):
            axes[i, j].imshow(data.inputs[row].reshape(28, 28), cmap="gray_r")
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].spines[:].set_visible(True)
    axes[0, 0].set_ylabel("example")
    axes[1, 0].set_ylabel("new font")
    return figure


def answer(summary: Summary) -> Figure:
    """Accuracy on the test tasks of the candidate and both references, and the weights found."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9), width_ratios=[1, 1.15])
    assert summary.test is not None, "the quickstart is finished"
    shown = {
        "no training": summary.test["untrained"],
        "equal weights,\ntuned rate": summary.test["uniform"],
    }
    shown["weights found\nby fewtune"] = summary.test["candidate"]
    for (label, value), colour, hatch in zip(
        shown.items(), (GREY, ORANGE, BLUE), ("", "//", ""), strict=True
    ):
        mean, low, high = (100 * x for x in (value.mean, value.low, value.high))
        left.barh(label, mean, color=colour, hatch=hatch, edgecolor="white", height=0.62)
        left.plot([low, high], [label, label], color="black", linewidth=1.5)
        left.text(high + 2, label, f"{mean:.1f}", va="center", weight="bold")
    left.axvline(20, color="black", linestyle=":", linewidth=1)
    left.text(20.5, 2.5, "chance", fontsize=7.5, va="center")
    left.set(xlim=(0, 108), ylim=(-0.5, 2.7), xticks=range(0, 101, 20))
    left.set(xlabel="% correct on five unseen scripts, one example each")
    _weights(right, summary)
    return figure


def _weights(axis: Axes, summary: Summary) -> None:
    best = summary.best
    assert best is not None, "the quickstart is finished"
    names = list(best.task_weights)[::-1]
    misleading = [name.endswith(("_shuffled", "_by_font")) for name in names]
    for name, wrong in zip(names, misleading, strict=True):
        colour, hatch = (ORANGE, "//") if wrong else (BLUE, "")
        axis.barh(name, best.task_weights[name], color=colour, hatch=hatch, edgecolor="white")
    axis.axvline(1 / len(names), color="black", linestyle=":", linewidth=1)
    axis.text(1 / len(names) + 0.004, -0.35, "equal weights", fontsize=7.5, va="center")
    axis.set(xlabel="weight found (hatched: labels are misleading)")
    axis.tick_params(axis="y", labelsize=8)


def effects(summary: Summary) -> Figure:
    """The effect of each training task, with its interval and verdict."""
    explanation = summary.explanation
    assert explanation is not None, "the quickstart has enough trials"
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    looks = {"helps": (GREEN, "o"), "harms": (ORANGE, "s"), "not needed": (GREY, "v")}
    for effect in reversed(explanation.effects):
        value = effect.effect
        colour, marker = looks.get(effect.verdict, (BLUE, "D"))
        axis.plot([100 * value.low, 100 * value.high], [effect.task] * 2, color=colour)
        axis.plot(100 * value.mean, effect.task, marker, color=colour)
        axis.text(11, effect.task, effect.verdict, va="center", fontsize=8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="points of skill for a tenth of the weight (95 % interval)", xlim=(-8, 15))
    axis.margins(y=0.06)
    return figure


def halving(search: Search) -> Figure:
    """How far each trial was trained."""
    trials = search.trials()
    rungs = sorted(int(name.partition("@")[2]) for name in trials if name.startswith("score@"))
    scores = trials[[f"score@{rung}" for rung in rungs]]
    steps = scores.notna().to_numpy().sum(1)
    figure, axis = plt.subplots(figsize=(6.4, 2.4))
    complete = (trials.state == "complete").to_numpy()
    for label, mask, colour, hatch in (
        ("complete", complete, BLUE, ""),
        ("pruned", ~complete, ORANGE, "///"),
    ):
        height = [rungs[n - 1] for n in steps[mask]]
        axis.bar(
            trials.index[mask], height, color=colour, hatch=hatch, edgecolor="white", label=label
        )
    axis.set(xlabel="trial", ylabel="steps", yticks=[0, *rungs])
    axis.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.25), frameon=False)
    return figure


def optimism(summary: Summary) -> Figure:
    """The finalists' scores in the search, and after retraining with new seeds."""
    figure, axis = plt.subplots(figsize=(5, 2.4))
    shown = [one for one in summary.finalists if not math.isnan(one.search_score or math.nan)]
    for i, one in enumerate(shown):
        value = one.score
        axis.plot([i, i], [value.low, value.high], color=BLUE)
        axis.plot(i, value.mean, "o", color=BLUE, label="retrained, new episodes" if not i else "")
        axis.plot(i, one.search_score, "x", color=ORANGE, label="in the search" if not i else "")
    labels = [f"{one.number}" + ("\n(uniform)" if one.role == "uniform" else "") for one in shown]
    axis.set_xticks(range(len(shown)), labels)
    axis.set(xlabel="finalist", ylabel="validation skill")
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
