"""Copies of what a suite's runs gave, for git: `reports_folder` to the same folder below `reports/published/`.

What would lose something stays as it is published: a figure of which less is measured, a table with fewer numbers, a
record with fewer runs. A table of times alone is left out: it would be another on every machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Params
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.core.files import atomic_write
from pipeline.reporting.drawing import COVERAGE, read_coverage, write_coverage
from pipeline.reporting.latex import compile_pdf
from pipeline.reporting.reproduction.record import FILE as RECORD
from pipeline.reporting.reproduction.record import KINDS as RECORD_KINDS
from pipeline.reporting.tables import WIDE

REPORTS = Path("reports")
PUBLISHED = REPORTS / "published"
"""All that is committed of results."""
KEPT_OUT = ("report.html", "tables.pdf", COVERAGE)
"""What is not copied, as SVG is not beside PDF: the report is large and follows from the rest, the others are written
anew."""
Parts = dict[str, list[Path]]
"""Files that are published together or not at all, relative to the suite's folder, by the name of their part."""


def published_folder(params: Params) -> Path:
    """Where a suite's evidence is kept for git."""
    return PUBLISHED / params.reports.relative_to(REPORTS)


def publish(params: Params, replace: Iterable[str], announce: Callable[[str], None]) -> None:
    """Copy the suite's reports to `published_folder`, but for what would lose something.

    Args:
        params: The suite.
        replace: Names of parts, such as `tables/table1`, that are copied in any case.
        announce: Told what was copied, and what was kept and why.

    Raises:
        RequestError: `replace` names something that was not written.
        PipelineError: there is nothing to publish.
    """
    source, target = params.reports, published_folder(params)
    parts = _parts(source)
    if not parts:
        raise PipelineError(f"{source} has nothing to publish; 'make repro' fills it")
    for name in (forced := set(replace)):
        if name not in parts:
            raise RequestError(f"--replace {name}: {did_you_mean(name, list(parts))}")
    for name, files in parts.items():
        if name not in forced and _is_of_times(name, source):
            announce(f"left out {name}: times are those of one machine; '--replace {name}' publishes it")
        elif name not in forced and (loss := _loss(name, files, source, target)):
            announce(f"kept {target / name}: {loss}; '--replace {name}' overwrites it")
        elif _copy(name, files, source, target):
            announce(f"published {target / name}")
    if fragments := sorted((target / "tables").glob("*.tex")):
        compile_pdf(fragments, target / "tables")


def _parts(source: Path) -> Parts:
    """Everything that can be published, in order of the names."""
    found: Parts = {}
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_dir() or path.name in KEPT_OUT or path.name.startswith(".") or path.suffix == ".svg":
            continue
        in_record = relative.parts[0] in RECORD_KINDS or relative.name == RECORD
        name = "record" if in_record else str(relative.with_suffix("")).removesuffix(WIDE)
        found.setdefault(name, []).append(relative)
    return found


def _copy(name: str, files: list[Path], source: Path, target: Path) -> bool:
    """Copy the files of a part, and remove those that it had before; whether anything is different now."""
    gone = set(_parts(target).get(name, [])) - set(files)
    for file in gone:
        (target / file).unlink()
    changed = [file for file in files if not _same(source / file, target / file)]
    for file in changed:
        with atomic_write(target / file) as stream, open(source / file, "rb") as content:
            shutil.copyfileobj(content, stream)
    if name.startswith("figures/"):
        figure = name.removeprefix("figures/")
        write_coverage(target / "figures", {figure: _coverage_of(source, figure)})
    return bool(gone or changed)


def _coverage_of(source: Path, figure: str) -> list[int]:
    """A figure that says nothing of itself, because its coverage was deleted, counts as not measured."""
    return read_coverage(source / "figures").get(figure, [0, 1])


def _is_of_times(name: str, source: Path) -> bool:
    """Whether a part is a table in which nothing but times is measured."""
    table = source / f"{name}.csv"
    if not name.startswith("tables/") or not table.exists():
        return False
    return set(pd.read_csv(table)["metric"]) == {TRAINING_SECONDS}


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()


def _loss(name: str, files: list[Path], source: Path, target: Path) -> str | None:
    """What would be lost if a part were published; None: nothing."""
    there = [file for file in files if (target / file).exists()]
    folder, _, figure = name.rpartition("/")
    if folder == "figures":
        published = read_coverage(target / folder).get(figure)
        return _lost_in_figure(_coverage_of(source, figure), published, bool(there))
    if name == "record":
        return _lost_runs(source / RECORD, target / RECORD)
    table = Path(f"{name}.csv")
    if folder == "tables" and (target / table).exists():
        return _lost_cells(source / table, target / table)
    shorter = [file for file in there if _lines(source / file) < _lines(target / file)]
    return f"the new {shorter[0].name} is shorter than the published one" if shorter else None


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines())


def _lost_in_figure(new: list[int], old: list[int] | None, is_there: bool) -> str | None:
    """What is lost in a figure of coverage `new`; a published one of unknown coverage counts as whole."""
    measured, wanted = new
    before = old[0] if old else wanted
    if measured >= (before if is_there else 1):
        return None
    published = f"of the published one {'' if old else 'perhaps '}{before}" if is_there else "there is none to replace"
    return f"of the new one {measured} of {wanted} experiments are measured, {published}"


def _lost_cells(new: Path, old: Path) -> str | None:
    there, before = (
        frame[~frame["missing"].astype(bool)].set_index(["method", "metric"])["images"]
        for frame in (pd.read_csv(path) for path in (new, old))
    )
    missing = sorted(set(before.index) - set(there.index))
    if missing:
        method, metric = missing[0]
        return f"the new one lacks {len(missing)} numbers of the published one, among them {metric} of {method}"
    fewer = int((there.reindex(before.index) < before).sum())
    return f"{fewer} numbers of the new one rest on fewer images" if fewer else None


def _lost_runs(new: Path, old: Path) -> str | None:
    if not old.exists():
        return None
    before, there = (
        {f"{run['name']}-{run['seed']}" for run in json.loads(path.read_text(encoding="utf-8"))["runs"]}
        for path in (old, new)
    )
    lost = sorted(before - there)
    return f"{len(lost)} runs of the published one are missing, among them {lost[0]}" if lost else None
