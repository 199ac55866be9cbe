"""Tables, and blocks of pages: one is written, what is around it stays."""

from __future__ import annotations

import pytest

from pipeline.reporting.markdown import block, fill_blocks, markdown_table

PAGE = """# A page

<!-- measured: first -->
old
lines
<!-- end -->
between
<!-- measured: second -->
<!-- end -->
"""


def test_a_block_is_read_and_written_and_the_rest_stays() -> None:
    assert (block(PAGE, "first"), block(PAGE, "second")) == ("old\nlines", "")
    filled = fill_blocks(PAGE, lambda name: r"| \1 | new |" if name == "second" else block(PAGE, name))
    assert filled == PAGE.replace("second -->\n", "second -->\n| \\1 | new |\n")


def test_a_block_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="third"):
        block(PAGE, "third")


def test_a_table_aligns_texts_and_numbers() -> None:
    assert (
        markdown_table(["", "n"], [["a", 1.5], ["b", "--"]], left=1)
        == "|  | n |\n| :-- | --: |\n| a | 1.5 |\n| b | -- |"
    )
    assert markdown_table(["x", "y"], []) == "| x | y |\n| :-- | :-- |"
