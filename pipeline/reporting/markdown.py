"""What commands write into pages: tables, and the parts between `<!-- measured: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


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
