"""Proposes episodes that are groups, such as schools or users, for a table with many of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from orchestrator.config.proposal.column_roles import POINTS, Roles
from orchestrator.config.proposal.data_columns import DataColumns
from orchestrator.config.proposal.lines import (
    HEAD,
    MOST_VALUES,
    dataset,
    described,
    how_to_choose,
    missing_codes,
    unused_columns,
    value_counts,
)

SPLIT = "split"  # the column that the option `split` of a table adds
_FEW_POINTS = 5  # labelled rows of an episode, where few groups have more
_MANY = 72  # more groups than this are not tasks, each with a weight


@dataclass(frozen=True)
class Groups:
    """n: how many groups have enough rows for an episode. shot: labelled and scored rows each."""

    column: str
    n: int
    shot: int


def many_groups(frame: pd.DataFrame, roles: Roles) -> Groups | None:
    """The groups of a table of numbers, if there are too many to be tasks."""
    if not roles.numbers or roles.group is None or SPLIT in frame:
        return None
    sizes = frame.groupby(roles.group)[roles.label].count()
    for shot in (POINTS, _FEW_POINTS):
        if (n := int((sizes >= 2 * shot).sum())) > _MANY:
            return Groups(roles.group, n, shot)
    return None


def group_proposal(
    name: str, what: str, path: str, columns: DataColumns, roles: Roles, groups: Groups
) -> tuple[str, list[str]]:
    """The YAML of the config, and lines that describe the data."""
    means = _averaged(columns.frame, roles)
    kept = {n: why for n, why in roles.left_out.items() if n not in means}
    roles = replace(roles, left_out=kept)
    column = json.dumps(groups.column)
    reason = f"values of {column}: {roles.group_reason}."
    text = HEAD.format(what=what, name=name) + "\n".join(
        [
            f"# label: {json.dumps(roles.label)} (numbers): {roles.label_reason}.",
            f"# groups: {reason}",
            *how_to_choose(columns, roles),
            "# `order: COLUMN` in each task lets the known rows precede the others.",
            "datasets:",
            f"  data: {dataset(columns, path, roles, groups=groups.column, means=means)}",
            "",
            *_tasks(groups, roles.label),
            "",
            *_training(groups),
            _SEARCH,
        ]
    )
    lines = described(columns, roles)
    lines.append(f"an episode is one of {groups.n} groups with enough rows, {reason}")
    lines += [f"mean of {roles.label} as a feature of: {', '.join(means)}"] if means else []
    if left := unused_columns(roles):
        lines.append(f"not used as features: {left}")
    return text, lines


def _averaged(frame: pd.DataFrame, roles: Roles) -> list[str]:
    """The columns that name things, such as films, which have several rows each."""
    ids = [name for name, why in roles.left_out.items() if why == "an id"]
    numbered = {name: frame[name].nunique() for name in ids}
    codes = missing_codes(frame, roles)
    counts = value_counts(frame, roles)
    named = {n: counts[n] for n in counts if counts[n] > MOST_VALUES and n not in codes}
    return [name for name, n in {**numbered, **named}.items() if n <= len(frame) / 2]


def _tasks(groups: Groups, label: str) -> list[str]:
    """Lines of YAML."""
    rest = f"label: {json.dumps(label)}, kind: regression, within: {json.dumps(groups.column)}"
    lines = ["tasks:  # an episode is one group; `split` of the dataset holds groups out"]
    for split in ("train", "validation", "test"):
        name = f"{split}_groups"
        lines += [
            f"  {split}:",
            f"    - {{name: {name}, dataset: data, {rest}, where: {{split: {split}}}}}",
        ]
    return lines


def _training(groups: Groups) -> Sequence[str]:
    """Lines of YAML: the learner, the episodes and the space."""
    return [
        "model: {name: mlp, hidden: [32]}",
        "learner: {name: meta_sgd}",
        "# `shot` labelled and `query` scored rows of one group",
        f"episodes: {{shot: {groups.shot}, query: {groups.shot}, per_task: 32, validation: 400, "
        "test: 2000}",
        "steps: 300",
        "",
        "space:  # a range is searched, a number is fixed",
        "  lr/outer: {low: 1e-3, high: 3e-2}",
        "  lr/inner: {low: 1e-3, high: 0.2}",
        "",
    ]


_SEARCH = """search:
  trials: 16
  reference_trials: 6
  finalists: 3  # retrained with new seeds, and scored on fresh episodes
  seeds: 3
"""
