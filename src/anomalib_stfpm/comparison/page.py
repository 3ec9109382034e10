"""A comparison as one page that needs nothing but a browser."""

import base64
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from anomalib_stfpm.comparison import plots
from anomalib_stfpm.comparison.predictions import FALSE_ALARMS, HITS, MISSES
from anomalib_stfpm.comparison.run import IMAGES
from anomalib_stfpm.comparison.table import COLUMNS, cells

_TEMPLATE = "page.html.jinja"
_SHOWN = {
    HITS: ("Defects with the highest scores", "found", "missed"),
    MISSES: ("Defects with the lowest scores", "found", "missed"),
    FALSE_ALARMS: ("Good images with the highest scores", "false alarm", "taken for good"),
}
"""What each kind of images is called, and an image of it above and below the threshold."""


def page(record: Mapping[str, Any], output: Path) -> str:
    """Write a comparison as HTML, with plots and images in it. What users have named is escaped."""
    template = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    categories = [_category(name, details, record, output) for name, details in record["categories"].items()]
    about = json.dumps(record["about"], indent=2)
    return environment.from_string(template).render(
        categories=categories, problems=record["problems"], about=about, columns=COLUMNS
    )


def _category(name: str, details: Mapping[str, Any], record: Mapping[str, Any], output: Path) -> dict[str, Any]:
    rows = [row for row in record["table"] if row["category"] == name]
    runs = [run for run in details["runs"] if "metrics" in run]
    first = {run["model"]: run for run in reversed(runs)}  # of the first seed
    models = [row["model"] for row in rows if row["model"] in first]
    palette = plots.colours([row["model"] for row in rows])
    curves = {
        kind: {model: first[model]["curves"][kind] for model in models if kind in first[model]["curves"]}
        for kind in ("ROC", "PRO")
    }
    drawn = {
        "Accuracy against latency": plots.accuracy_against_latency(rows, palette),
        **{kind: plots.curve(of_kind, kind, palette) for kind, of_kind in curves.items()},
        "Scores": plots.histograms({model: _scores(first[model]) for model in models}) if models else None,
    }
    return {
        "name": name,
        "verdict": record["verdicts"].get(name, "Nothing was measured."),
        "notes": details["notes"],
        "rows": [cells(row) for row in rows],
        # matplotlib has escaped the names in the plots.
        "plots": {title: Markup(svg) for title, svg in drawn.items() if svg is not None},  # nosec B704
        "images": {model: _images(first[model], output) for model in models},
    }


def _scores(run: Mapping[str, Any]) -> tuple[list[float], list[float], float | None]:
    good, defective = (
        [one["score"] for one in run["scores"] if one["is_defective"] is is_defective] for is_defective in (False, True)
    )
    return good, defective, run["threshold"]


def _images(run: Mapping[str, Any], output: Path) -> dict[str, list[dict[str, Any]]]:
    folder = output / run["folder"] / IMAGES
    return {
        _SHOWN[kind][0]: [
            {
                "name": "/".join(Path(one["path"]).parts[-2:]),
                "score": f"{one['score']:.3g}",
                "said": "" if one["is_anomalous"] is None else _SHOWN[kind][1 if one["is_anomalous"] else 2],
                "is_wrong": one["is_anomalous"] is (kind == FALSE_ALARMS),
                "sources": [_inline(folder / Path(one[part]).name) for part in ("picture", "overlay") if part in one],
            }
            for one in images
        ]
        for kind, images in run["images"].items()
    }


def _inline(path: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
