"""Markdown: tables, texts of `params.yaml`, and parts of pages between `<!-- measured: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.reporting.latex import rendered
from pipeline.reporting.layout import Cell, Label, Layout

BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
SYMBOLS = {r"\infty": "∞", r"\beta": "β", r"\ell": "\N{SCRIPT SMALL L}", r"\epsilon": "ε", r"\pm": "±"}
SCRIPT = re.compile(r"(?P<kind>[_^])(?:\{(?P<group>[^{}]*)\}|(?P<single>[^\\{}]))")
TAGS = {"_": "sub", "^": "sup"}


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[object]], left: int | None = None) -> str:
    """A table in GitHub's Markdown, without a line break at its end.

    Args:
        header: The heading of every column.
        rows: Cells, which are Markdown already.
        left: How many of the first columns are aligned to the left, as text; the others to the right, as numbers.
            None: all are text.
    """
    texts = len(header) if left is None else left
    rule = [":--" if column < texts else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (header, rule, *rows))


def fill_blocks(page: str, text_of: Callable[[str], str]) -> str:
    """A page with the text of each of its blocks, which `text_of` gives by the block's name."""
    return BLOCK.sub(lambda found: f"{found[1]}{text_of(found[2])}\n{found[4]}", page)


def block(page: str, name: str) -> str:
    """The text of one block.

    Raises:
        KeyError: the page has no block of this name.
    """
    return {found[2]: found[3] for found in BLOCK.finditer(page)}[name].removesuffix("\n")


def markdown(layout: Layout) -> str:
    """A table in GitHub's Markdown: best in bold, second best underlined, footnotes below."""
    rows = [[_label(row.label), *map(_cell, row.cells)] for row in layout.rows]
    paragraphs = [
        f"**{markdown_text(layout.title)}** {markdown_text(layout.details)}",
        markdown_table(["Method", *_header(layout)], rows, left=1),
        *(f"<sup>{letter}</sup> {markdown_text(note)}" for letter, note in layout.notes.items()),
        *map(markdown_text, layout.remarks),
    ]
    return "\n\n".join(paragraphs) + "\n"


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
    return rendered(source, lambda text: re.sub(r"([\\`*_|<>~\[\]])", r"\\\1", text), math_html, "`{}`".format)


def plain_text(source: str) -> str:
    """Text without any marks, for files of data: simple math becomes Unicode, on one line."""
    return rendered(source, str, lambda math: re.sub(r"</?su[bp]>", "", math_html(math)), str)


def math_html(source: str) -> str:
    """`PGD$^{20}_\\infty$` as HTML; math that is not so simple stays math."""
    shown = source
    for command, symbol in SYMBOLS.items():
        shown = re.sub(re.escape(command) + r"(?![a-zA-Z])", symbol, shown)
    shown = SCRIPT.sub(lambda found: _tagged(TAGS[found["kind"]], found["group"] or found["single"] or ""), shown)
    return f"${source}$" if re.search(r"[\\{}_^]", shown) else shown


def _tagged(tag: str, content: str) -> str:
    return f"<{tag}>{content}</{tag}>"
