"""A docstring stands without its name: a noun for what is, a verb for what does, never 'Of ...' or 'Those ...'."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY

HEADLESS = re.compile(r'^\s*"""(Of|Those)\b.*', flags=re.MULTILINE)


def test_every_docstring_has_a_head() -> None:
    files = [path for folder in ("pipeline", "stages", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 100
    found = [f"{path.relative_to(REPOSITORY)}: {hit.strip()}" for path in files for hit in _headless(path.read_text())]
    assert found == []


def _headless(source: str) -> list[str]:
    return [match[0] for match in HEADLESS.finditer(source)]


def test_a_headless_docstring_is_found() -> None:
    assert _headless('SIZE = 3\n"""Of every chart."""\n\ndef f():\n    """Those that are done."""') != []
    assert _headless('SIZE = 3\n"""The size of every chart."""') == []
