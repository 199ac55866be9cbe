"""Tables on disk: the same numbers as LaTeX, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd

from pipeline.config import Params
from pipeline.files import write_text
from pipeline.reporting import latex
from pipeline.reporting.latex import compile_pdf
from pipeline.reporting.layout import Cell, Layout, lay_out, printed

__all__ = ["compile_pdf", "markdown", "write_table"]

CSV_COLUMNS = ["method", "label", "metric", "value", "std", "seeds", "images", "missing", "command"]
SYMBOLS = {r"\infty": "∞", r"\beta": "β", r"\ell": "\N{SCRIPT SMALL L}", r"\epsilon": "ε", r"\pm": "±"}
SCRIPT = re.compile(r"(?P<kind>[_^])(?:\{(?P<group>[^{}]*)\}|(?P<single>[^\\{}]))")


def write_table(name: str, params: Params, results: pd.DataFrame, destination: Path) -> list[Path]:
    """Write table `name` of `params` to `destination` as `<name>.tex`, `<name>.csv` and `<name>.md`.

    Equal input gives equal bytes.

    Args:
        name: A key of `tables`.
        params: What the table's texts are taken from.
        results: As `pipeline.reporting.results.collect` gives them for this table.
        destination: A folder; it is created where it is missing.

    Returns:
        The three files.
    """
    layout = lay_out(name, params, results)
    contents = {"tex": latex.fragment(layout), "csv": _csv(layout, params, results), "md": markdown(layout)}
    for kind, content in contents.items():
        write_text(destination / f"{name}.{kind}", content)
    return [destination / f"{name}.{kind}" for kind in contents]


def _csv(layout: Layout, params: Params, results: pd.DataFrame) -> str:
    """One line per cell, below a comment that says what the numbers are (`pandas.read_csv(path, comment="#")`)."""
    digits = params.tables[layout.name].digits
    stream = io.StringIO()
    stream.write(f"# {layout.title} {layout.details}\n")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for _, row in results.iterrows():
        mean, std = printed(row["mean"], digits), printed(row["std"], digits)
        images = "" if pd.isna(row["images"]) else int(row["images"])
        label, missing = params.methods[row["method"]].label, str(bool(row["missing"])).lower()
        writer.writerow([row["method"], label, row["metric"], mean, std, row["seeds"], images, missing, row["command"]])
    return stream.getvalue()


def markdown(layout: Layout) -> str:
    """The table in GitHub's Markdown: best in bold, second best underlined, footnotes below."""
    lines = [f"**{_text(layout.title)}** {_text(layout.details)}", ""]
    lines.append(_line(["Method", *map(_text, layout.header)]))
    lines.append(_line([":--", *("--:" for _ in layout.header)]))
    lines += [_line([_text(row.label), *map(_cell, row.cells)]) for row in layout.rows]
    notes = [f"<sup>{letter}</sup> {_text(note)}" for letter, note in layout.notes.items()]
    paragraphs = [*notes, *map(_text, layout.remarks)]
    return "\n".join([*lines, *(line for paragraph in paragraphs for line in ("", paragraph)), ""])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    value = {"": "%s", "best": "**%s**", "second": "<u>%s</u>"}[cell.rank] % (cell.value or "--")
    return value + (f" ± {cell.std}" if cell.std else "") + (f"<sup>{cell.marks}</sup>" if cell.marks else "")


def _text(source: str) -> str:
    """Markdown for a text: simple math becomes Unicode and HTML, which shows everywhere; code stays code."""
    parts, position = [], 0
    for match in latex.MARKUP.finditer(source):
        parts.append(_escape(source[position : match.start()]))
        math, script, code = match.group("math", "script", "code")
        parts.append(math_html(math[1:-1] if math else script) if code is None else f"`{code}`")
        position = match.end()
    return "".join(parts) + _escape(source[position:])


def _escape(plain: str) -> str:
    return re.sub(r"([\\`*_|<>~\[\]])", r"\\\1", plain)


def math_html(source: str) -> str:
    """`PGD$^{20}_\\infty$` as HTML; math that is not so simple stays math."""
    shown = source
    for command, symbol in SYMBOLS.items():
        shown = re.sub(re.escape(command) + r"(?![a-zA-Z])", symbol, shown)
    tags = {"_": "sub", "^": "sup"}
    shown = SCRIPT.sub(lambda match: _tagged(tags[match["kind"]], match["group"] or match["single"] or ""), shown)
    return f"${source}$" if re.search(r"[\\{}_^]", shown) else shown


def _tagged(tag: str, content: str) -> str:
    return f"<{tag}>{content}</{tag}>"
