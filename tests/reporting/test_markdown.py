"""Blocks of pages: one is written, what is around it stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.reporting.markdown import block, replace_block

PAGE = """# A page

<!-- measured: first -->
old
lines
<!-- end -->
between
<!-- measured: second -->
<!-- end -->
"""


def test_a_block_is_read_and_written_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    assert (block(PAGE, "first"), block(PAGE, "second")) == ("old\nlines", "")
    replace_block(path, "second", r"| \1 | new |")
    assert path.read_text() == PAGE.replace("second -->\n", "second -->\n| \\1 | new |\n")


def test_a_block_that_is_not_there_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    with pytest.raises(KeyError, match="third"):
        replace_block(path, "third", "new")
    assert path.read_text() == PAGE
