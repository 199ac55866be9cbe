"""What README.md and docs/ show works as printed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.config import parse_params
from tests.conftest import REPOSITORY, content_of

README = (REPOSITORY / "README.md").read_text()
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def make_commands() -> set[str]:
    """Targets of every `make ...` in the pages' consoles and code."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        for code in [*blocks(text, "console"), *re.findall(r"`(make [^`]+)`", text)]:
            found |= set(re.findall(r"\bmake ((?:[a-z][a-z0-9-]*)(?: [a-z][a-z0-9-]*)*)", code))
    return found


def test_the_numbers_of_the_reduced_run_are_those_of_its_published_table() -> None:
    published = REPOSITORY / "reports/published/cifar10_reduced/resnet18/tables/table1.md"
    shown = (REPOSITORY / "docs/suites.md").read_text().splitlines()
    rows = [line for line in published.read_text().splitlines() if line.startswith("| ")]
    measured = [row for row in rows if "--<sup>" not in row]
    assert len(measured) > 2
    assert [row for row in measured if row not in shown] == []


def test_the_yaml_of_the_readme_is_generalist_d_with_another_interval() -> None:
    raw = content_of("suite=digits")
    (shown,) = blocks(README, "yaml")
    raw["methods"] |= yaml.safe_load(shown)["methods"]
    changed = yaml.safe_load(shown)["methods"]["mine"]
    changed["mixture"]["communication_interval"] = 1
    raw["methods"]["same"] = changed
    params = parse_params(raw)
    mine, original = params.experiment("mine", 1), params.experiment("generalist_d_nt_linf", 1)
    assert params.experiment("same", 1).fingerprint == original.fingerprint != mine.fingerprint


def test_every_make_command_of_the_pages_has_its_target() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for command in make_commands() for word in command.split() if re.fullmatch(r"[a-z][a-z0-9-]*", word)}
    assert {"repro", "test", "suite"} <= named and named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", page.read_text())
    local = [link for pair in links for link in pair if link and "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_test_that_a_page_names_is_there() -> None:
    named = [
        (page.parent / path, name)
        for page in PAGES
        for path, name in re.findall(r"\[test\]\(([^)]+)\) `(test_\w+)`", page.read_text())
    ]
    assert len(named) > 2
    assert [name for path, name in named if f"def {name}(" not in path.read_text()] == []


def test_no_conflict_of_a_merge_is_committed() -> None:
    command = ["git", "grep", "-lE", "^(<{7}|>{7}) ", "--", "."]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")


def published(suite: str, table: str) -> pd.DataFrame:
    """The measured cells of a published table."""
    path = REPOSITORY / f"reports/published/{suite}/small_cnn/tables/{table}.csv"
    cells = pd.read_csv(path)
    return cells[~cells["missing"]]


def test_what_has_been_measured_is_what_is_published() -> None:
    page = (REPOSITORY / "docs/README.md").read_text().partition("## What has been measured")[2]
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    said = {name: cells for name, *cells in lines}
    methods = {suite: published(suite, "table1")["method"].nunique() for suite in ("digits", "cifar10_study")}
    seeds = published("cifar10_study", "table1")["seeds"].max()
    assert said["tables I to III"][:2] == [
        f"all {methods['digits']} methods",
        f"{methods['cifar10_study']} methods, {seeds} seeds",
    ]
    corrupted = published("digits", "table4")["method"].nunique()
    assert said["Table IV (corruptions, sequences)"][:2] == [f"all {corrupted} methods", "no"]
    assert {path.name for path in (REPOSITORY / "reports/published").iterdir() if path.is_dir()} == {
        "cifar10_reduced",
        "cifar10_study",
        "digits",
        "digits_beyond",
        "performance",
    }, "a suite that nothing here speaks of"
    on_a_gpu = list((REPOSITORY / "benchmarks/results").glob("*.cuda.json"))
    assert all((cells[-1] == "no") == (not on_a_gpu) for name, cells in said.items() if name.startswith("speed"))
