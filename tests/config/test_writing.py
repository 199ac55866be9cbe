"""Composed settings are read back as they were, and a person can read them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.writing import LAST, WIDTH, readable_yaml
from tests.conftest import REPOSITORY, composition

SUITES = sorted(path.stem for path in (REPOSITORY / "conf/suite").glob("*.yaml"))
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("γε±\n"), min_size=1, max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXTS, parts, max_size=4),
)


@given(st.dictionaries(st.sampled_from(["suite", "methods", "data", *LAST]), VALUES))
def test_whatever_is_written_is_read_back(content: dict[str, Any]) -> None:
    assert yaml.safe_load(readable_yaml(content)) == content


@pytest.mark.parametrize("suite", SUITES)
def test_lines_are_short_and_sections_about_results_come_last(suite: str) -> None:
    text = composition(f"suite={suite}").content
    assert [line for line in text.splitlines() if len(line) > WIDTH and ("{" in line or "[" in line)] == []
    sections = list(yaml.safe_load(text))
    assert sections[-len(LAST) :] == [name for name in LAST if name in sections]
    assert "schedule: {epochs: [0," in text and "\n\nmethods:\n" in text
