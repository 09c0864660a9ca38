"""A prepared view of a study in MLflow's UI: its trials, best first, and charts."""

import json
from typing import Any

from tune.study.identity import GROUP
from tune.tracking.mlflow_names import mlflow_key
from tune.tracking.projection import LOGARITHMIC, Event

__all__ = ["shared_view"]

_SECTION = "vistune"
_COMMON = {
    "runsCountToCompare": 100,
    "metricSectionId": _SECTION,
    "deleted": False,
    "isGenerated": False,
}
_FIXED = {
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
    "groupBy": None,
    "groupsExpanded": {},
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
}


def shared_view(study: Event, study_id: str) -> str:
    """Return a shared view as JSON: MLflow's run table and charts, with the trials of one study or
    group, best first.

    The format is internal to the UI and undocumented; it was taken from MLflow 3.17.
    """
    objective = mlflow_key(study["objective"])
    best = f"best/{objective}"
    searched = [mlflow_key(name) for name in study["searched"]]
    section = {
        "uuid": _SECTION,
        "name": f"Study {study['name']}",
        "display": True,
        "isReordered": True,
    }

    is_group = study.get("kind") == GROUP
    identity = "group.id" if is_group else "study.id"
    columns = [f"metrics.`{best}`"]
    if is_group:
        columns.append("tags.study")
    columns += [f"params.`{name}`" for name in searched]
    columns += ["tags.chosen", "tags.`trial.state`", "tags.`trial.reason`"]

    charts = [
        {"uuid": f"{_SECTION}-{position}", **chart, **_COMMON}
        for position, chart in enumerate(_charts(objective, best, searched))
    ]
    state = {
        **_FIXED,
        "searchFilter": f"tags.kind = 'trial' and tags.`{identity}` = '{study_id}'",
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": study["direction"] == "minimize",
        "selectedColumns": columns,
        "compareRunSections": [section],
        "compareRunCharts": charts,
    }
    return json.dumps(state)


def _charts(objective: str, best: str, searched: list[str]) -> list[dict[str, Any]]:
    logs = [f"log10/{name}" for name in searched if name.endswith(LOGARITHMIC)]
    plain = [name for name in searched if not name.endswith(LOGARITHMIC)]

    parallel = {
        "type": "PARALLEL",
        "selectedParams": plain[:6],
        "selectedMetrics": [*logs[:3], best],
        "showAllRuns": True,
    }
    scatters = [
        {"type": "SCATTER", "xaxis": _axis(name), "yaxis": _axis(best)} for name in logs[:2]
    ]
    curves = {
        "type": "LINE",
        "metricKey": objective,
        "selectedMetricKeys": [objective],
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
    }
    bars = {"type": "BAR", "metricKey": best}
    return [parallel, *scatters, curves, bars]


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}
