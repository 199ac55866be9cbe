"""docs/papers.md: what answers every numbered item of both papers here, and how far it has been run.

Items are data (`pipeline/reporting/paper/`); how far they have been run is read from what lies in reports/published/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.config import Params
from pipeline.reporting.figures.ablation import AblationFigure
from pipeline.reporting.markdown import fill_blocks, markdown_table
from pipeline.reporting.papers import (
    TITLES,
    control_claims,
    numbered_items,
    printed_cells,
    printed_figures,
    stated_claims,
)
from pipeline.reporting.reproduction.claims import COSTS, NOT_TESTED, Steps, judge_cost

PAGE = Path("docs/papers.md")
NEVER = "never run"
SCALES = ("full scale", "reduced", "digits only")
"""Best first: as the papers have it; their data set with less of something; another data set that fits a CPU."""
FIGURES_OF = "cifar10"
"""The suite whose figures are the papers'."""
_CAPTION = re.compile(r"of `(?P<architecture>\w+)` on test images of `(?P<dataset>\w+)`")


@dataclass(frozen=True)
class Measured:
    """A committed table: of which network and data set, and what is in it."""

    dataset: str
    architecture: str
    is_reduced: bool
    cells: frozenset[tuple[str, str]]
    """Method and metric."""

    def scale(self, dataset: str, architecture: str) -> str | None:
        """How far it is what the papers have of a data set and network; None: not at all."""
        if self.dataset != dataset:
            return "digits only" if self.dataset == "digits" else None
        return "full scale" if self.architecture == architecture and not self.is_reduced else "reduced"


def fill_page(page: str, suites: Mapping[str, Params], reports: Path, steps: Steps | None) -> str:
    """The page with all its blocks, from every suite of `conf/suite` and the folder of all evidence; a KeyError says
    that there is nothing for a block of this name."""
    texts = {
        "tables": _tables(measured_tables(reports)),
        "figures": _figures(suites, reports),
        "items": _items(reports),
        "claims": _claims(reports, steps),
    }
    return fill_blocks(page, texts.__getitem__)


def measured_tables(reports: Path) -> list[Measured]:
    """Every committed table of accuracies below a folder, but for those that print several suites side by side."""
    found = []
    for page in sorted(reports.rglob("*.md")):
        words, path = page.read_text(encoding="utf-8"), page.with_suffix(".csv")
        of = _CAPTION.search(words)
        if of is None or not path.exists():
            continue
        frame = pd.read_csv(path)
        if "panel" in frame:
            continue  # its caption is about several networks; the suites' own tables have the same numbers
        there = frame[~frame["missing"].astype(bool)]
        cells = frozenset(zip(there["method"].astype(str), there["metric"].astype(str), strict=True))
        found.append(Measured(of["dataset"], of["architecture"], "reduced" in words.lower(), cells))
    return found


def table_state(measured: Iterable[Measured], wanted: pd.DataFrame) -> str:
    """How many rows of the printed cells `wanted` (one data set and network) are there whole, at the best scale."""
    (dataset,), (architecture,) = wanted["dataset"].unique(), wanted["architecture"].unique()
    rows = {str(method): {(str(method), metric) for metric in of["metric"]} for method, of in wanted.groupby("method")}
    at: dict[str | None, set[tuple[str, str]]] = {}
    for one in measured:
        at.setdefault(one.scale(dataset, architecture), set()).update(one.cells)
    for scale in SCALES:
        count = sum(cells <= at.get(scale, set()) for cells in rows.values())
        if count:
            return f"{scale}: {count} of {len(rows)} rows"
    return NEVER


def _tables(measured: list[Measured]) -> str:
    lines = []
    for (table, dataset, architecture), wanted in printed_cells().groupby(
        ["table", "dataset", "architecture"], sort=False
    ):
        attacks = " attacks=full" * str(table).startswith("1")
        suite = f'make suite SUITE={dataset} SET="architecture={architecture}{attacks}"'
        label = f"{TITLES[str(table)]}, {dataset}, {architecture}"
        lines.append([label, f"`{suite} && make repro`", table_state(measured, wanted)])
    return markdown_table(["Table", "Command", "State"], lines)


def _figures(suites: Mapping[str, Params], reports: Path) -> str:
    lines = []
    for row in printed_figures().to_dict("records"):
        panel = f"{row['paper']}, Figure {row['panel']}"
        names = _drawn_by(suites[FIGURES_OF], panel)
        command = "make ablation" if row["kind"] == "ablation" else "make repro figures"
        shown = f"{', '.join(f'`{name}`' for name in names)}: `make suite SUITE={FIGURES_OF} && {command}`"
        wanted = {*row["methods"].split(), *row["baselines"].split()}
        lines.append([panel, row["says"], shown, figure_state(panel, wanted, suites.values(), reports)])
    return markdown_table(["Figure", "What it shows", "Here", "State"], lines)


def _drawn_by(params: Params, panel: str) -> list[str]:
    """The figures of a suite that say that they draw a panel of the papers."""
    return [name for name, one in params.figures.items() if panel in one.paper.split("; ")]


def figure_state(panel: str, wanted: set[str], suites: Iterable[Params], reports: Path) -> str:
    """At which scale a panel (as `figures.<name>.paper` has it) has been drawn, the best first, and of how many of the
    `wanted` methods, which the papers show in it, where it is not all."""
    at: dict[str, set[str]] = {}
    for params in suites:
        folder = reports / params.reports.relative_to("reports") / "figures"
        reduced = params.data.train_images is not None
        scale = SCALES[reduced] if params.data.name == FIGURES_OF else "digits only"
        if params.data.name not in (FIGURES_OF, "digits"):
            continue
        for name in _drawn_by(params, panel):
            if (folder / f"{name}.png").exists():
                at.setdefault(scale, set()).update(_methods(params, name))
    for scale in SCALES:
        if scale in at:
            shown = wanted & at[scale]
            return scale + (f": {len(shown)} of {len(wanted)} methods" if shown != wanted else "")
    return NEVER


def _methods(params: Params, name: str) -> set[str]:
    """The methods that a figure shows."""
    figure = params.figures[name]
    named = {one for kind, one in figure.names() if kind == "method"}
    if isinstance(figure, AblationFigure) and figure.methods is None and figure.study in params.ablation.studies:
        named |= set(params.ablation.studies[figure.study].methods)
    return named


def _items(reports: Path) -> str:
    lines = [
        [row["paper"], row["item"], row["says"], row["answer"], item_state(row["evidence"], reports)]
        for row in numbered_items()
    ]
    return markdown_table(["Paper", "Item", "What it says", "Here", "State"], lines)


def item_state(evidence: str, reports: Path) -> str:
    """What the evidence of an item is, where it is there: `test:FILE::NAME`, which holds the code to the item;
    `curves:PREFIX`, of columns that training records; `file:PATH` in `reports`; or ""."""
    kind, _, where = evidence.partition(":")
    if kind == "test":
        return f"tested: `{where.partition('::')[2]}`"
    if kind == "file":
        return f"measured: `{where}`" if (reports / where).exists() else NEVER
    if kind == "curves":
        suites = {
            path.parents[2].name
            for path in reports.glob("*/*/curves/*.csv")
            if any(name.startswith(where) for name in path.open(encoding="utf-8").readline().strip().split(","))
        }
        return f"measured: {', '.join(f'`{name}`' for name in sorted(suites))}" if suites else NEVER
    return "--"


def _claims(reports: Path, steps: Steps | None) -> str:
    found: dict[str, dict[str, str]] = {}
    for path in sorted(reports.glob("*/*/claims.csv")):
        for claim, verdict in pd.read_csv(path)[["claim", "verdict"]].astype(str).itertuples(index=False):
            if verdict != NOT_TESTED:
                found.setdefault(claim, {})[path.parents[1].name] = verdict
    lines = []
    for row in [*stated_claims(), *control_claims()]:
        said = [f"`{suite}`: {verdict}" for suite, verdict in found.get(row["key"], {}).items()]
        measure = row["measure"].format(attack="AA")
        lines.append([row["text"], row["source"], measure, "; ".join(said) or NEVER])
    for cost in COSTS:
        verdict = NEVER if steps is None else judge_cost(cost, steps)[1]
        lines.append([cost.text, cost.source, "time of a training step", verdict])
    return markdown_table(["Claim", "Papers", "Measured by", "State"], lines)
