"""The papers' own numbers, as data, under the project's names."""

from __future__ import annotations

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
    names = _read("names.csv").fillna("")
    for kind in ("method", "metric"):
        known = names[names["kind"] == kind].set_index("paper")
        if kind == "method":
            cells["note"] = cells[kind].map(known["note"])
        cells[kind] = cells[kind].map(known["ours"])
    return cells.rename(columns={"arch": "architecture"})[[*CELL, "value", "note"]]


@cache
def readings() -> pd.DataFrame:
    """The cells that the papers print elsewhere: where they belong by our reading, and where they are (`note`)."""
    return _read("readings.csv").rename(columns={"arch": "architecture"})


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
def numbered_items() -> list[dict[str, str]]:
    """The papers' printed tables, algorithms, equations, definitions and theorems: `paper`, `item`, `says`, what
    `answer`s it here, and the `evidence` of that, as `pipeline.reporting.answers.item_state` reads it."""
    return _records("items.csv")


def _records(name: str) -> list[dict[str, str]]:
    return [{str(key): str(value) for key, value in row.items()} for row in _read(name).fillna("").to_dict("records")]


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv((files("pipeline.reporting") / "paper" / name).open(encoding="utf-8"), dtype={"table": str})
