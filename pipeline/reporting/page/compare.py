"""What the report needs to compare any of its experiments: paired tests, curves, verdicts of images, settings."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.digits import decimals
from pipeline.evaluation.statistics import exact_p
from pipeline.reporting.comparison import flat
from pipeline.reporting.examples import NATURAL, shown_attacks
from pipeline.reporting.figures.training_curves import METRICS
from pipeline.reporting.page.charts import line_chart
from pipeline.reporting.page.text import plain
from pipeline.reporting.style import looks

Pages = Sequence[Mapping[str, Any]]
UNSAID = {"suite", "name", "grid"}
"""Settings that decide about nothing."""
WORST_CASE = "worst_case_union"
LEVEL = 0.05
"""From which p on two methods are not told apart."""


def comparison(pages: Pages, histories: Sequence[Any], verdicts: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """What the template asks for: `charts` with a line for every experiment, `ties`, and `data` for the page's script.

    Args:
        pages: What the report says of measured experiments.
        histories: Theirs.
        verdicts: Theirs.
    """
    evaluation = pages[0]["experiment"].evaluation
    attacks = list(dict.fromkeys([NATURAL, *shown_attacks(evaluation), *evaluation.union]))
    members = {attack: [attack] for attack in attacks} | {WORST_CASE: evaluation.union}
    tables = {name: _correct(verdicts, attacks) for name, attacks in members.items()}
    correct = {name: table for name, table in tables.items() if len(table)}
    pairs = {attack: list(_pairs(table)) for attack, table in correct.items()}
    data = {
        "names": [{"label": _label(page), "name": page["experiment"].identifier} for page in pages],
        "accuracies": {attack: [round(float(share), 4) for share in table.mean()] for attack, table in correct.items()},
        "digits": {attack: decimals(len(table)) for attack, table in correct.items()},
        "pairs": pairs,
        "settings": _settings(pages),
        "images": {attack: _images(table) for attack, table in correct.items()},
    }
    ties = [_ties(attack, pages, table, pairs[attack]) for attack, table in correct.items()]
    return {"charts": list(_charts(pages, histories)), "ties": ties, "data": data}


def _label(page: Mapping[str, Any]) -> str:
    return f"{plain(page['label'])} ({page['experiment'].identifier})"


def _correct(verdicts: Sequence[pd.DataFrame], attacks: Sequence[str]) -> pd.DataFrame:
    """By image and place of the experiment, whether it is right under all of these attacks; without images on which
    not every experiment was attacked in each way."""
    found = []
    for table in verdicts:
        own = table[table["attack"].isin(attacks)].pivot_table(
            index="image", columns="attack", values="correct", observed=True, aggfunc="min"
        )
        found.append(own.dropna().astype(bool).all(axis=1))
    return pd.concat(found, axis=1, join="inner")


def _pairs(correct: pd.DataFrame) -> Iterator[list[float]]:
    """Numbers of the first with the second, the first with the third and so on: images, only first, only second, p."""
    table = correct.to_numpy(dtype=int)
    only = table.T @ (1 - table)
    for first, second in combinations(range(table.shape[1]), 2):
        counts = int(only[first, second]), int(only[second, first])
        yield [len(table), *counts, float(f"{exact_p(*counts):.3g}")]


def _ties(attack: str, pages: Pages, correct: pd.DataFrame, pairs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The best experiment under an attack, and those that McNemar's exact test does not tell apart from it."""
    shares = correct.mean()
    best = int(shares.argmax())
    places = list(combinations(range(len(pages)), 2))
    tied = [sum(pair) - best for pair, (*_, p) in zip(places, pairs, strict=True) if best in pair and p >= LEVEL]
    return {
        "attack": attack,
        "best": pages[best],
        "accuracy": float(shares[best]),
        "images": len(correct),
        "others": [pages[place] for place in tied],
    }


def _settings(pages: Pages) -> dict[str, list[str]]:
    """Settings that are not the same in all experiments, as each of them has it."""
    own = [dict(flat(page["experiment"].model_dump(mode="json", exclude=UNSAID))) for page in pages]
    paths = dict.fromkeys(path for settings in own for path in settings if not path.endswith("label"))
    every = {path: [settings.get(path, "") for settings in own] for path in paths}
    return {path: values for path, values in every.items() if len(set(values)) > 1}


def _images(correct: pd.DataFrame) -> dict[str, Any]:
    """The images' numbers, and for each experiment which it gets right, one bit each."""
    bits = [base64.b64encode(np.packbits(correct[place]).tobytes()).decode() for place in correct]
    return {"numbers": correct.index.tolist(), "right": bits}


def _charts(pages: Pages, histories: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Accuracies of the result over the epochs: a line for every experiment."""
    names = [page["experiment"].identifier for page in pages]
    for metric, words in METRICS.items():
        series = {}
        for name, history in zip(names, histories, strict=True):
            for split in ("held_out", "test"):
                column = f"{split}/global/{metric}"
                points = [(record["epoch"], 100 * record[column]) for record in history if column in record]
                if points:
                    series[name] = points
        if series:
            chart = line_chart(f"Accuracy while training: {plain(words)}", series, "accuracy (%)", looks(names))
            yield {**chart, "keys": True}
