"""Tables on disk: the same numbers as LaTeX, CSV and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.config import Params
from pipeline.core.files import write_text
from pipeline.reporting import latex
from pipeline.reporting.latex import compile_pdf, draw_pictures
from pipeline.reporting.layout import Cell, Label, Layout, lay_out, lay_out_difference, printed
from pipeline.reporting.markdown import markdown_table
from pipeline.reporting.results import beside_paper

KINDS = ("tex", "csv", "md")
SYMBOLS = {r"\infty": "∞", r"\beta": "β", r"\ell": "\N{SCRIPT SMALL L}", r"\epsilon": "ε", r"\pm": "±"}
SCRIPT = re.compile(r"(?P<kind>[_^])(?:\{(?P<group>[^{}]*)\}|(?P<single>[^\\{}]))")


def write_table(name: str, params: Params, results: pd.DataFrame, destination: Path) -> list[Path]:
    """Write table `name` of `params` to `destination` as `<name>.tex`, `<name>.csv` and `<name>.md`.

    Where the papers have numbers for this data set and network, `<name>_minus_paper` is written as well. Equal input
    gives equal bytes.

    Args:
        name: A key of `tables`.
        params: What the table's texts are taken from.
        results: As `pipeline.reporting.results.fill` gives them for this table.
        destination: A folder; it is created where it is missing.

    Returns:
        The files.
    """
    labels, digits = {name: method.label for name, method in params.methods.items()}, params.tables[name].digits
    paths = write_layout(lay_out(name, params, results), csv_rows(labels, digits, results), destination)
    beside = beside_paper(params, params.tables[name], results)
    if beside is None:
        return paths
    rows = csv_rows(labels, digits, beside)
    return paths + write_layout(lay_out_difference(name, params, beside), rows, destination)


def remove_leftovers(folder: Path, written: Iterable[Path]) -> list[Path]:
    """Remove the tables that were written to `folder` before and are none of `written`: those that were dropped.

    Returns:
        The files: fragments that begin as ours do, and their other forms, the picture included.
    """
    names = {path.stem for path in written}
    dropped = [path for path in sorted(folder.glob("*.tex")) if path.stem not in names and _is_ours(path)]
    paths = [path.with_suffix(f".{kind}") for path in dropped for kind in (*KINDS, "png")]
    removed = [path for path in paths if path.exists()]
    for path in removed:
        path.unlink()
    return removed


def _is_ours(fragment: Path) -> bool:
    with open(fragment, "rb") as stream:
        return stream.readline().rstrip().endswith(latex.MARK.encode())


def write_layout(layout: Layout, rows: str, destination: Path) -> list[Path]:
    """Write a table to `destination` in all forms; `rows` as `csv_rows` gives them. Returns the files."""
    comment = f"# {layout.title} {layout.details}\n"
    contents = dict(zip(KINDS, (latex.fragment(layout), comment + rows, markdown(layout)), strict=True))
    paths = [destination / f"{layout.name}.{kind}" for kind in KINDS]
    for path, content in zip(paths, contents.values(), strict=True):
        write_text(path, content)
    return paths


def csv_rows(labels: Mapping[str, str], digits: int, results: pd.DataFrame) -> str:
    """One line per cell; the file begins with a comment: `pandas.read_csv(path, comment="#")`.

    Args:
        labels: Of the methods.
        digits: Decimals of the numbers.
        results: As `pipeline.reporting.results.fill` or `beside_paper` gives them; of several suites, with `panel` (the
            heading of the cell's column) and `suite`, which come first.
    """
    frame = pd.DataFrame(
        {
            **{key: results[key] for key in ("panel", "suite") if key in results},
            "method": results["method"],
            "label": [labels[method] for method in results["method"]],
            "metric": results["metric"],
            "value": [printed(value, digits) for value in results["mean"]],
            **{
                key: [printed(value, digits) for value in results[key]]
                for key in ("std", "low", "high", "paper", "difference")
                if key in results
            },
            "seeds": results["seeds"],
            "images": ["" if pd.isna(images) else int(images) for images in results["images"]],
            "missing": [str(bool(missing)).lower() for missing in results["missing"]],
            "command": results["command"],
            "notes": [" ".join(notes) for notes in results["notes"]],
        }
    )
    return frame.to_csv(index=False, lineterminator="\n")


def markdown(layout: Layout) -> str:
    """The table in GitHub's Markdown: best in bold, second best underlined, footnotes below."""
    lines = [f"**{markdown_text(layout.title)}** {markdown_text(layout.details)}", ""]
    rows = [[_label(row.label), *map(_cell, row.cells)] for row in layout.rows]
    lines.append(markdown_table(["Method", *_header(layout)], rows, left=1))
    notes = [f"<sup>{letter}</sup> {markdown_text(note)}" for letter, note in layout.notes.items()]
    paragraphs = [*notes, *map(markdown_text, layout.remarks)]
    return "\n".join([*lines, *(line for paragraph in paragraphs for line in ("", paragraph)), ""])


def write_pictures(fragments: Sequence[Path], output: Path) -> Iterator[str]:
    """Draw every LaTeX fragment as a picture and compile all of them to one PDF; say what was written."""
    yield from (f"wrote {path}" for path in draw_pictures(fragments))
    pdf = compile_pdf(fragments, output)
    yield f"wrote {pdf}" if pdf else "pdflatex is not installed: the tables were not compiled ('make setup' says how)"


def _header(layout: Layout) -> Iterator[str]:
    """Labels of the columns, after their heading where there is one: Markdown's tables have one row of headings."""
    headings = [f"{_label(heading.label)}: " for heading in layout.headings for _ in range(heading.columns)]
    for heading, label in zip(headings or [""] * len(layout.header), layout.header, strict=True):
        yield heading + _label(label)


def _label(label: Label) -> str:
    return markdown_text(label.text) + (f"<sup>{label.marks}</sup>" if label.marks else "")


def _cell(cell: Cell) -> str:
    value = {"": "%s", "best": "**%s**", "second": "<u>%s</u>"}[cell.rank] % (cell.value or "--")
    interval = f" [{', '.join(cell.interval)}]" if cell.interval else ""
    std = f" ± {cell.std}" if cell.std else ""
    return value + std + interval + (f"<sup>{cell.marks}</sup>" if cell.marks else "")


def markdown_text(source: str) -> str:
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
