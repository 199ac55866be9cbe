"""What the report needs to compare any two of its experiments: numbers of each pair, curves, images, settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd
from markupsafe import Markup

from pipeline.evaluation.statistics import exact_p
from pipeline.reporting.comparison import flat
from pipeline.reporting.examples import NATURAL, shown_attacks
from pipeline.reporting.figures.training_curves import METRICS
from pipeline.reporting.page.charts import line_chart
from pipeline.reporting.page.text import plain

Pages = Sequence[Mapping[str, Any]]
UNSAID = {"suite", "name", "grid"}
"""Settings that decide about nothing."""


def comparison(pages: Pages, histories: Sequence[Any], verdicts: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """What the template asks for: `charts` with a line for every experiment, and `data` for the page's script.

    Args:
        pages: What the report says of measured experiments.
        histories: Theirs.
        verdicts: Theirs.
    """
    evaluation = pages[0]["experiment"].evaluation
    attacks = list(dict.fromkeys([NATURAL, *shown_attacks(evaluation), *evaluation.union]))
    correct = {attack: [_correct(table, attack) for table in verdicts] for attack in attacks}
    data = {
        "names": [{"label": _label(page), "name": page["experiment"].identifier} for page in pages],
        "attacks": attacks,
        "accuracies": {attack: [round(float(one.mean()), 4) for one in correct[attack]] for attack in attacks},
        "pairs": {attack: list(_pairs(correct[attack])) for attack in attacks},
        "settings": _settings(pages),
        "images": list(_images(pages, correct)),
    }
    return {"charts": list(_charts(histories)), "data": Markup(json.dumps(data).replace("<", r"\u003c"))}


def _label(page: Mapping[str, Any]) -> str:
    return f"{plain(page['label'])} ({page['experiment'].identifier})"


def _correct(verdicts: pd.DataFrame, attack: str) -> pd.Series:
    return verdicts[verdicts["attack"] == attack].set_index("image")["correct"]


def _pairs(correct: Sequence[pd.Series]) -> Iterator[list[float]]:
    """Numbers of the first with the second, the first with the third and so on: images, only first, only second, p."""
    table = pd.concat(correct, axis=1, join="inner").to_numpy(dtype=int)
    only = table.T @ (1 - table)
    for first, second in combinations(range(len(correct)), 2):
        counts = int(only[first, second]), int(only[second, first])
        yield [len(table), *counts, float(f"{exact_p(*counts):.3g}")]


def _settings(pages: Pages) -> dict[str, list[str]]:
    """Settings that are not the same in all experiments, as each of them has it."""
    own = [dict(flat(page["experiment"].model_dump(mode="json", exclude=UNSAID))) for page in pages]
    paths = dict.fromkeys(path for settings in own for path in settings if not path.endswith("label"))
    every = {path: [settings.get(path, "") for settings in own] for path in paths}
    return {path: values for path, values in every.items() if len(set(values)) > 1}


def _images(pages: Pages, correct: Mapping[str, Sequence[pd.Series]]) -> Iterator[dict[str, Any]]:
    """The images that the report shows somewhere, and by attack for each experiment whether it is right: 1, 0 or -."""
    for image in sorted({example["image"] for page in pages for example in page["examples"]}):
        marks = {
            attack: "".join(str(int(one[image])) if image in one.index else "-" for one in series)
            for attack, series in correct.items()
        }
        yield {"image": image, "right": marks}


def _charts(histories: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Accuracies of the result over the epochs: a line for every experiment, by its place."""
    for metric, words in METRICS.items():
        series = {}
        for place, history in enumerate(histories):
            for split in ("held_out", "test"):
                column = f"{split}/global/{metric}"
                points = [(record["epoch"], 100 * record[column]) for record in history if column in record]
                if points:
                    series[str(place)] = points
        if series:
            yield line_chart(f"Accuracy while training: {plain(words)}", series, "accuracy (%)", None, 100.0)
