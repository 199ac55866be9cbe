"""A checkout that was renamed or copied: what it shows, exports and trains is its own, through the stages."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.conftest import keep, small_table
from tests.running import few_steps
from tests.stages.conftest import MakeWorkplace, Workplace
from tests.tracking.results import as_another_process

METHODS = ("nt", "at")


def shrink(content: dict[str, Any]) -> None:
    keep(content, METHODS, ["pgd20_linf", "pgd20_l2"])
    content["figures"] = {"curves": {"kind": "training_curves", "caption": "Curves", "method": "nt"}}
    content["tables"] = {"table1": small_table(METHODS, "natural")}


@pytest.fixture
def place(make_workplace: MakeWorkplace) -> Workplace:
    """A folder where nt was trained and evaluated, with its report."""
    made = make_workplace(shrink)
    made.call("train", "nt", "--seed", "1").expect(0)
    with few_steps():
        made.call("evaluate", "nt", "--seed", "1").expect(0)
    for stage in ("tables", "figures", "report"):
        made.call(stage).expect(0)
    as_another_process()
    return made


def pictures(place: Workplace) -> int:
    page = (place.folder / "reports/digits/small_cnn/report.html").read_text(encoding="utf-8")
    return page.count("<svg") + page.count("<img")


def test_a_renamed_checkout_shows_and_exports_what_it_had(place: Workplace) -> None:
    before = pictures(place)
    moved = Workplace(place.folder.rename(place.folder.with_name(f"{place.folder.name} renamed")))
    said = moved.call("report")
    said.expect(0)
    assert said.err.count("was moved or copied") == 1 and "warning" not in said.err
    assert pictures(moved) == before > 1
    for stage, cell in (("explain", "table1:nt:natural"), ("export", "nt-1")):
        finished = moved.call(stage, cell)
        finished.expect(0)
        assert finished.err == ""
    assert not place.folder.exists(), "nothing was written to where it was"


def test_a_copy_leaves_its_original_alone(place: Workplace) -> None:
    before = place.files()
    copied = Workplace(shutil.copytree(place.folder, place.folder.with_name(f"{place.folder.name}_copied")))
    copied.call("train", "at", "--seed", "1").expect(0)
    with few_steps():
        copied.call("evaluate", "at", "--seed", "1").expect(0)
    copied.call("export", "nt-1").expect(0)
    assert place.files() == before
    assert len(list(copied.folder.glob("mlartifacts/digits/*/artifacts/verdicts.parquet"))) == 2


def test_a_report_that_lacks_files_says_so_and_the_tables_bring_them_back(place: Workplace) -> None:
    before = pictures(place)
    shutil.rmtree(place.folder / "mlartifacts")
    said = place.call("report")
    said.expect(0)
    assert "warning: 1 of 1 runs, " in said.err and "logs again what results/ has" in said.err
    assert pictures(place) < before
    doctor = place.call("doctor")
    assert "problem  Artifacts: the files of 1 runs are not beside the store" in doctor.out and doctor.code == 1
    tables = place.call("tables")
    tables.expect(0)
    assert "logged nt-1 to MLflow from its files" in tables.out
    place.call("report").expect(0)
    assert pictures(place) == before
