"""Tables as LaTeX fragments, and all fragments of a folder as one PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import PipelineError
from pipeline.core.files import atomic_write
from pipeline.reporting.layout import Cell, Label, Layout

if TYPE_CHECKING:
    from PIL import Image

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
}
SIGNS = {"+": "+", "-": "-", "±": r"\pm"}
MARKUP = re.compile(r"(?P<math>\$[^$]+\$)|(?P<script>[_^]\{[^{}]*\})|`(?P<code>[^`]+)`")
MARK = "'; do not edit. Needs the packages booktabs and graphicx."
"""How the first line of every fragment ends, after the command that writes it, and that of no file of others."""
WRAPPER = r"""\documentclass[10pt]{article}
\usepackage[a4paper,margin=20mm]{geometry}
\usepackage{amsmath,amssymb,booktabs,graphicx}
\usepackage[font=small,labelfont=bf,skip=6pt]{caption}
\pdftrailerid{}
\pdfsuppressptexinfo=-1
\pagestyle{empty}
\begin{document}
%s
\end{document}
"""
NOTES = r"""\par\smallskip
\begin{minipage}{\linewidth}\footnotesize\raggedright\frenchspacing
%s
\end{minipage}"""
REPRODUCIBLE = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
ERROR_LINES = 12
DOTS_PER_INCH = 160
MARGIN = 16
"""White around a picture, in pixels."""


def rendered(source: str, plain: Callable[[str], str], math: Callable[[str], str], code: Callable[[str], str]) -> str:
    """A text with what is plain, math (without its dollar signs) and code in it rendered by a function each."""
    parts, position = [], 0
    for match in MARKUP.finditer(source):
        formula, script, quoted = match.group("math", "script", "code")
        parts.append(plain(source[position : match.start()]))
        parts.append(math(formula[1:-1] if formula else script) if quoted is None else code(quoted))
        position = match.end()
    return "".join([*parts, plain(source[position:])])


def text(source: str) -> str:
    """LaTeX for a text: math stays as it is, code becomes `\\texttt`, everything else is escaped.

    >>> text(r"AT_{2} & $\\ell_2$, 5%")
    'AT$_{2}$ \\\\& $\\\\ell_2$, 5\\\\%'
    """
    return rendered(source, _escape, "${}$".format, _typewriter)


def _escape(plain: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in plain)


def _typewriter(code: str) -> str:
    """Escaped by character number: `\\_` would be drawn as a rule, and a command copied from the PDF would lack it."""
    shown = (rf"\char{ord(character)}{{}}" if character in SPECIAL else character for character in code)
    return rf"\texttt{{{''.join(shown)}}}"


def fragment(layout: Layout) -> str:
    """A `table` environment; the document that inputs it needs the packages booktabs and graphicx."""
    labels = [_label(row.label) for row in layout.rows]
    columns = [_column(cells) for cells in zip(*(row.cells for row in layout.rows), strict=True)]
    notes = [rf"\textsuperscript{{{letter}}}\,{text(note)}" for letter, note in layout.notes.items()]
    notes += [text(remark) for remark in layout.remarks]
    return "\n".join(
        [
            f"% Written by '{layout.command}{MARK}",
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption[{{{text(layout.title)}}}]{{\frenchspacing {text(layout.title)} {text(layout.details)}}}",
            rf"\label{{tab:{layout.name}}}",
            r"\renewcommand{\arraystretch}{1.1}",
            # Shrinks a table that is too wide for the page, and leaves the others as they are.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'c' * len(layout.header)}}}",
            r"\toprule",
            *_headings(layout),
            _row(["Method", *map(_label, layout.header)]),
            r"\midrule",
            *_rows(layout, zip(labels, *columns, strict=True)),
            r"\bottomrule",
            r"\end{tabular}}",
            *([NOTES % " \\\\\n".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def _rows(layout: Layout, cells: Iterable[Iterable[str]]) -> Iterator[str]:
    """The rows, with a rule between groups of methods."""
    for row, shown in zip(layout.rows, cells, strict=True):
        yield from [r"\midrule"] * row.begins_group
        yield _row(shown)


def _row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _headings(layout: Layout) -> list[str]:
    """A line of headings over groups of columns, and a rule below each."""
    if not layout.headings:
        return []
    ends = list(accumulate((heading.columns for heading in layout.headings), initial=1))
    shown = [rf"\multicolumn{{{heading.columns}}}{{c}}{{{_label(heading.label)}}}" for heading in layout.headings]
    rules = [rf"\cmidrule(lr){{{start + 1}-{end}}}" for start, end in pairwise(ends)]
    return [_row(["", *shown]).lstrip(), "".join(rules)]


def _label(label: Label) -> str:
    return text(label.text) + (rf"\textsuperscript{{{label.marks}}}" if label.marks else "")


def _column(cells: tuple[Cell, ...]) -> list[str]:
    """The cells of one column; invisible digits give all the same width, so that decimal points line up."""
    value, std = (max((getattr(cell, part) for cell in cells), key=len) for part in ("value", "std"))
    intervals = [cell.interval for cell in cells if cell.interval]
    interval = max(intervals, key=lambda ends: len("".join(ends)), default=None)
    return [_cell(cell, value, std, interval) for cell in cells]


def _cell(cell: Cell, widest_value: str, widest_std: str, widest_interval: tuple[str, str] | None) -> str:
    mark = rf"\rlap{{\textsuperscript{{{cell.marks}}}}}" if cell.marks else ""
    if not cell.value:
        return f"--{mark}"
    # With a sign of mathematics, all of which are equally wide.
    signed = f"${SIGNS[cell.value[0]]}${cell.value[1:]}" if cell.value[0] in SIGNS else cell.value
    value = {"": "%s", "best": r"\textbf{%s}", "second": r"\underline{%s}"}[cell.rank] % signed
    padding = _padding(len(widest_value) - len(cell.value))
    return padding + value + _spread(cell.std, widest_std) + _interval(cell.interval, widest_interval) + mark


def _spread(std: str, widest: str) -> str:
    if not widest:
        return ""
    padding = _padding(len(widest) - len(std)) if std else ""
    shown = rf"{{\scriptsize\,$\pm$\,{padding}{std or widest}}}"
    return shown if std else rf"\phantom{{{shown}}}"


def _interval(ends: tuple[str, str] | None, widest: tuple[str, str] | None) -> str:
    if widest is None:
        return ""
    low, high = ends or widest
    shown = rf"{{\scriptsize\,[{low},\,{high}]}}"
    if ends is None:
        return rf"\phantom{{{shown}}}"
    padding = _padding(len("".join(widest)) - len(low + high))
    return shown + (rf"{{\scriptsize{padding}}}" if padding else "")


def _padding(digits: int) -> str:
    return rf"\phantom{{{'0' * digits}}}" if digits else ""


def compile_pdf(fragments: Sequence[Path], folder: Path) -> Path | None:
    """Set fragments (`.tex`) as `tables.pdf` in `folder`, in their order; equal fragments give equal bytes.

    Returns:
        The PDF, or None where pdflatex is not installed.

    Raises:
        PipelineError: LaTeX fails, or there are no fragments.
    """
    if not fragments:
        raise PipelineError(f"{folder}: no table was written, so there is nothing to make a PDF of")
    if shutil.which("pdflatex") is None:
        return None
    with tempfile.TemporaryDirectory() as temporary, atomic_write(folder / "tables.pdf") as stream:
        stream.write(_set(fragments, Path(temporary)).read_bytes())
    return folder / "tables.pdf"


def draw_pictures(fragments: Iterable[Path]) -> list[Path]:
    """Every fragment (`.tex`) as a picture beside it, for pages that show no LaTeX.

    Returns:
        The PNG files; none where pdflatex or pdftoppm is not installed.

    Raises:
        PipelineError: LaTeX fails.
    """
    if shutil.which("pdflatex") is None or shutil.which("pdftoppm") is None:
        return []
    pictures = []
    for fragment in fragments:
        with tempfile.TemporaryDirectory() as temporary:
            page = _set([fragment], Path(temporary))
            command = [
                "pdftoppm",
                "-png",
                "-singlefile",
                "-r",
                str(DOTS_PER_INCH),
                str(page),
                str(page.with_suffix("")),
            ]
            subprocess.run(command, check=True, capture_output=True)
            with atomic_write(fragment.with_suffix(".png")) as stream:
                _trimmed(page.with_suffix(".png")).save(stream, "PNG", optimize=True)
        pictures.append(fragment.with_suffix(".png"))
    return pictures


def _trimmed(path: Path) -> Image.Image:
    """A page without its white border, but for a margin."""
    from PIL import Image, ImageOps

    with Image.open(path) as page:
        grey = page.convert("L")
        left, top, right, bottom = ImageOps.invert(grey).getbbox() or (0, 0, *grey.size)
        return ImageOps.expand(grey.crop((left, top, right, bottom)), border=MARGIN, fill=255)


def _set(fragments: Sequence[Path], workplace: Path) -> Path:
    """A PDF of fragments, in a folder of its own."""
    for path in fragments:
        shutil.copy(path, workplace)
    inputs = "\n".join(rf"\input{{{path.stem}}}" for path in fragments)
    (workplace / "wrapper.latex").write_text(WRAPPER % inputs, encoding="utf-8")
    result = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "wrapper.latex"],
        cwd=workplace,
        env=os.environ | REPRODUCIBLE,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode != 0:
        lines = result.stdout.decode(errors="replace").splitlines()
        first = next((number for number, line in enumerate(lines) if line.startswith("!")), len(lines) - ERROR_LINES)
        shown = "\n".join(f"  {line}" for line in lines[max(first, 0) :][:ERROR_LINES])
        folder = fragments[0].parent
        raise PipelineError(
            f"LaTeX failed on the tables in {folder}; check labels and captions in params.yaml\n{shown}"
        )
    return workplace / "wrapper.pdf"
