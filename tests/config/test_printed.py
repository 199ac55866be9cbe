"""conf/printed.yaml: its tables are the papers', and mistakes in such a file are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load_printed
from pipeline.core.errors import RequestError
from pipeline.reporting.papers import numbered_items, printed_cells
from tests.conftest import REPOSITORY, composed

FILE = REPOSITORY / "conf/printed.yaml"
OF_PAPER = {"table1": ["I"], "table2": ["II"], "table3": ["III"], "table4": ["IV"], "table1a_cvpr": ["1a"]}
OF_PAPER["table1b_cvpr"] = ["1b"]


@pytest.fixture(scope="module")
def suites() -> dict[str, Any]:
    """Every suite of the file."""
    return {name: composed(*suite.compose) for name, suite in load_printed(FILE).suites.items()}


@pytest.mark.parametrize("name", OF_PAPER)
def test_a_printed_table_has_exactly_the_papers_cells(name: str, suites: dict[str, Any]) -> None:
    table = load_printed(FILE).tables[name]
    cells = set()
    for group in table.groups:
        assert group.columns or group.suite
        own = suites[table.suites[0]].tables[table.table].columns
        for column in group.columns or table.columns or own:
            params = suites[str(getattr(column, "suite", None) or group.suite)]
            data, architecture = params.data.name, params.experiment(table.rows[0], 1).architecture
            cells |= {(data, architecture, method, column.metric) for method in table.rows}
    papers = printed_cells()
    wanted = papers[papers["table"].isin(OF_PAPER[name])]
    expected = set(wanted[["dataset", "architecture", "method", "metric"]].itertuples(index=False, name=None))
    assert cells == expected


def test_the_page_about_the_papers_names_every_printed_table_of_theirs() -> None:
    answers = " ".join(row["answer"] for row in numbered_items())
    named = [name for names in re.findall(r"python -m stages\.printed ([\w ]+)`", answers) for name in names.split()]
    assert sorted(named) == sorted(OF_PAPER) and set(named) < set(load_printed(FILE).tables)


def test_the_four_groups_of_table_iv_are_in_the_papers_order() -> None:
    groups = load_printed(FILE).tables["table4"].groups
    assert [group.label for group in groups] == ["CIFAR-10-C", "CIFAR-10-P", "CIFAR-100-C", "CIFAR-100-P"]
    assert [[column.label for column in group.columns or []] for group in groups] == [["RN18", "WRN32"]] * 4


def test_overrides_are_added_to_every_suite() -> None:
    printed = load_printed(FILE, ["seeds=[1,2,3]"])
    assert all(suite.compose[-1] == "seeds=[1,2,3]" for suite in printed.suites.values())
    assert printed.suites["cifar10_wrn32_10"].compose == ["suite=cifar10", "architecture=wrn32_10", "seeds=[1,2,3]"]


@pytest.fixture
def raw() -> dict[str, Any]:
    suites = {"one": {"label": "One", "compose": ["suite=digits"]}}
    return {"suites": suites, "tables": {"small": {"caption": "Small", "groups": [{"label": "One", "suite": "one"}]}}}


def write(raw: Any, folder: Path) -> Path:
    path = folder / "printed.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("tables.small.groups.0.suite", "won", "tables.small.groups.0.suite: unknown suite 'won': did you mean 'one'?"),
        ("tables.small.groups.0.suite", None, "tables.small.groups.0.suite: is missing: name one, or one for each"),
        ("tables.small.groups.0.columns", [{"metric": "natural", "label": "N", "suite": "two"}], "unknown suite 'two'"),
        ("tables.small.groups", [], "tables.small.groups: expected more entries"),
        ("tables.small.row", ["at"], "tables.small.row: unknown key; did you mean 'rows'?"),
        ("tables.small.rows", ["at", "at"], "tables.small.rows: 'at' is given more than once"),
        ("suites.one.compose", ["architecture=resnet18"], "suites.one.compose: expected one 'suite=name', got 0"),
        ("suites.one.compose", ["suite=digits", "seeds=[1]; x"], "expected an override of Hydra without blanks"),
        ("suites.one.compose", ["suite=digits", "data.root=$HOME"], "expected an override of Hydra without blanks"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    raw: dict[str, Any], tmp_path: Path, place: str, value: Any, said: str
) -> None:
    section: Any = raw
    *path, last = [int(part) if part.isdecimal() else part for part in place.split(".")]
    for part in path:
        section = section[part]
    section[last] = value
    with pytest.raises(RequestError) as caught:
        load_printed(write(raw, tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/printed.yaml: 1 mistake, nothing was started") and said in str(
        caught.value
    )


@pytest.mark.parametrize("override", ["seeds=[1, 2]", "data.root='x'", ""])
def test_an_override_that_a_shell_would_read_is_refused_once(
    raw: dict[str, Any], tmp_path: Path, override: str
) -> None:
    with pytest.raises(RequestError) as caught:
        load_printed(write(raw, tmp_path), [override])
    assert str(caught.value) == f"expected an override of Hydra without blanks and quotes, got '{override}'"


def test_a_file_that_is_not_there_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"No such file or directory\). The project's own is conf/printed\.yaml"):
        load_printed(tmp_path / "printed.yaml")
    with pytest.raises(RequestError, match="expected a mapping with 'suites' and 'tables', got list"):
        load_printed(write([1], tmp_path))
