"""The papers' own numbers, as data, under the project's names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import pandas as pd

CELL = ["table", "dataset", "architecture", "method", "metric"]
"""What addresses one number."""
TITLES = {
    "1a": "Table 1(a) of Generalist (CVPR 2023)",
    "1b": "Table 1(b) of Generalist (CVPR 2023)",
    "I": "Table I of Generalist++",
    "II": "Table II of Generalist++",
    "III": "Table III of Generalist++",
    "IV": "Table IV of Generalist++",
}
"""The papers' tables by the names that `tables.<name>.paper.table` takes."""


@cache
def printed_cells() -> pd.DataFrame:
    """Every number as printed.

    Returns:
        `table` (a key of `TITLES`), `dataset`, `architecture`, `method` and `metric` by the project's names, `value`
        (percent), `note` ("" when there is nothing to say about the cell).
    """
    cells = pd.concat([_read("generalist_cvpr.csv"), _read("generalist_pp.csv")], ignore_index=True)
    names = _read("names.csv").fillna("").set_index(["kind", "paper"])
    cells["note"] = cells["method"].map(names.loc["method"]["note"])
    for kind in ("method", "metric"):
        cells[kind] = cells[kind].map(names.loc[kind]["ours"])
    return cells[[*CELL, "value", "note"]]


def cells_on(dataset: str, tables: Sequence[str]) -> pd.DataFrame:
    """The printed cells of a data set; where several of `tables` have the same one, the one listed first counts."""
    cells = printed_cells()
    chosen = cells[cells["table"].isin(tables) & cells["dataset"].eq(dataset)]
    in_order = chosen.sort_values("table", key=lambda names: names.map(tables.index), kind="stable")
    return in_order.drop_duplicates(["architecture", "method", "metric"]).sort_index()


@cache
def readings() -> pd.DataFrame:
    """The cells that the papers print elsewhere: where they belong by our reading, and where they are (`note`)."""
    return _read("readings.csv")


@cache
def printed_figures() -> pd.DataFrame:
    """Every panel of the papers' figures, by its caption and the text about it.

    Returns:
        `paper` ('Generalist++' or 'CVPR'), `panel` ('3(a)'); `kind` as `figures.<name>.kind` has it, and of an ablation
        what it `varies`; `methods`, `baselines` and `metrics` by the project's names, apart by blanks ("" where the
        paper does not say); `says`: in words.
    """
    return _read("figures.csv").fillna("")


@cache
def stated_claims() -> list[dict[str, str]]:
    """The papers' claims about accuracies: `key`, `text`, `source` in the papers, and as
    `pipeline.reporting.reproduction.claims` reads them, `experiments`, `value`, `views` and `measure`."""
    return _records("claims.csv")


@cache
def control_claims() -> list[dict[str, str]]:
    """What must hold if a gain is to be credited to the mixture, which the papers do not test: as `stated_claims`."""
    return _records("controls.csv")


@cache
def numbered_items() -> list[dict[str, str]]:
    """The papers' printed tables, algorithms, equations, definitions and theorems: `paper`, `item`, `says`, what
    `answer`s it here, and the `evidence` of that, as `pipeline.reporting.answers.item_state` reads it."""
    return _records("items.csv")


def _records(name: str) -> list[dict[str, str]]:
    return [{str(key): str(value) for key, value in row.items()} for row in _read(name).fillna("").to_dict("records")]


def _read(name: str) -> pd.DataFrame:
    path = files("pipeline.reporting") / "paper" / name
    return pd.read_csv(path.open(encoding="utf-8"), dtype={"table": str}).rename(columns={"arch": "architecture"})
