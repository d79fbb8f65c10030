"""Saved views of a search for MLflow's experiment page, in MLflow's undocumented format."""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

PREFIX = "mlflow.sharedViewState."
BOOKKEEPING = ("seed", "trial_number")
PAGE: Mapping[str, Any] = {  # the state that all views share
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsHiddenMode": "SHOWALL",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": True,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    },
}


def view_id(search: str, view: str) -> str:
    """A fixed id for a view of a search, so that writing the view again replaces it."""
    return hashlib.sha256(f"{search}/{view}".encode()).hexdigest()[:32]


def saved_views(search: str, params: Sequence[str], *, at: int) -> dict[str, str]:
    """Experiment tags with three views. params: names of a trial's parameters; at: time in ms."""
    views = {
        ("", "searches"): ("Searches", _searches()),
        (search, "trials"): (f"Trials by score: {search}", _trials(search, params)),
        (search, "tasks"): (f"Adaptation by task: {search}", _adaptations(search)),
    }
    tags = {}
    for key, (name, state) in views.items():
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
        value = {"name": name, "createdAt": at, "updatedAt": at, "state": f"deflate;{packed}"}
        tags[PREFIX + view_id(*key)] = json.dumps(value)
    return tags


def _searches() -> dict[str, Any]:
    columns = [
        "attributes.`Duration`",
        "metrics.`score`",
        "metrics.`score_se`",
        "tags.`fewtune.state`",
    ]
    return _state("tags.`fewtune.kind` = 'search'", "attributes.start_time", columns, {})


def _trials(search: str, params: Sequence[str]) -> dict[str, Any]:
    searched = [name for name in params if name not in (*BOOKKEEPING, "stage")]
    shown = [name for name in searched if not name.startswith("log10_")]
    axes = [name for name in searched if f"log10_{name}" not in searched]
    columns = ["tags.`fewtune.state`", "metrics.`score`", "metrics.`score_se`"]
    columns += [f"params.`{name}`" for name in shown]
    weights = [name for name in axes if name.startswith("lambda/")]
    first: list[dict[str, Any]] = [
        {"type": "PARALLEL", "selectedParams": axes, "selectedMetrics": ["score"]}
        | {"showAllRuns": True}
    ]
    first += [_scatter(name) for name in axes[:8]]
    if len(weights) > 2:
        ends = {"xaxis": _axis(weights[0], "PARAM"), "yaxis": _axis(weights[1], "PARAM")}
        first.append({"type": "CONTOUR", "zaxis": _axis("score", "METRIC"), **ends})
    charts = {
        "Searched parameters and score": first,
        "During training": [_line("score"), _line("train/loss")],
    }
    # Excludes finalists and tests: their scores are on different episodes.
    filter = f"tags.`fewtune.search` = '{search}' and params.stage = 'search'"
    filter += " and tags.`fewtune.kind` = 'trial'"
    return _state(filter, "metrics.`score`", columns, charts)


def _adaptations(search: str) -> dict[str, Any]:
    columns = ["metrics.`score`", "metrics.`accuracy`", "metrics.`f1`", "metrics.`mse`"]
    columns += [f"params.`{name}`" for name in ("task", "split", "stage", "trial_number")]
    filter = f"tags.`fewtune.kind` = 'adaptation' and tags.`fewtune.search` = '{search}'"
    bars: list[dict[str, Any]] = [
        {"type": "BAR", "metricKey": name, "displayName": name, "runsCountToCompare": 50}
        for name in ("score", "accuracy", "mse")  # MLflow hides a chart without values
    ]
    state = _state(filter, "metrics.`score`", columns, {"Each held-out task": bars})
    by_task = [{"mode": "param", "groupByData": "task"}]
    return state | {"groupBy": {"aggregateFunction": "average", "groupByKeys": by_task}}


def _axis(key: str, type: str) -> dict[str, str]:
    return {"key": key, "type": type}


def _scatter(param: str) -> dict[str, Any]:
    return {"type": "SCATTER", "xaxis": _axis(param, "PARAM"), "yaxis": _axis("score", "METRIC")}


def _line(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _state(
    filter: str, order: str, columns: list[str], charts: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The whole state of the page: the table and the sections of charts."""
    sections: list[dict[str, Any]] = []
    flat: list[dict[str, Any]] = []
    shared = {"deleted": False, "isGenerated": False}
    for section, (title, members) in enumerate(charts.items()):
        id = f"fewtune-section-{section}"
        sections.append({"uuid": id, "name": title, "display": True, "isReordered": True, **shared})
        for chart in members:
            uuid = f"fewtune-{len(flat)}"
            place = {"uuid": uuid, "metricSectionId": id, "runsCountToCompare": 100}
            flat.append({**place, **shared, **chart})
    return {
        **PAGE,
        "searchFilter": filter,
        "orderByKey": order,
        "selectedColumns": columns,
        "columnOrder": ["1", "attributes.`Run Name`", *columns, "runDateAndNestInfo", "duration"],
        "compareRunCharts": flat,
        "compareRunSections": sections,
    }
