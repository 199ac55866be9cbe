"""Parts of pages that are written by commands: what lies between `<!-- measured: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Callable

BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_blocks(page: str, text_of: Callable[[str], str]) -> str:
    """A page with the text of each of its blocks, which `text_of` gives by the block's name."""
    return BLOCK.sub(lambda found: f"{found[1]}{text_of(found[2])}\n{found[3]}", page)
