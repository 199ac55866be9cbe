"""What a run gave becomes evidence by one command, which never takes a measured number away."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import Params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import write_text
from pipeline.reporting.drawing import COVERAGE, read_coverage, write_coverage
from pipeline.reporting.publishing import publish, published_folder
from tests.conftest import composed

KEYS = ("nt", "natural"), ("nt", "aa_linf"), ("at", "natural"), ("at", "aa_linf")


@pytest.fixture(scope="module")
def params() -> Params:
    return composed("suite=digits")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(params: Params, missing: Collection[tuple[str, str]] = (), images: int = 360, value: str = "50.00") -> None:
    """Write table1 as `stages.tables` does."""
    rows = [
        {"method": method, "metric": metric, "value": value, "images": images, "missing": (method, metric) in missing}
        for method, metric in KEYS
    ]
    frame = pd.DataFrame(rows).astype({"missing": str})
    frame["missing"] = frame["missing"].str.lower()
    folder = params.reports / "tables"
    write_text(folder / "table1.csv", frame.to_csv(index=False))
    write_text(folder / "table1.md", f"value {value}\n")


def figure(params: Params, measured: int, wanted: int = 5, content: str = "a picture") -> None:
    folder = params.reports / "figures"
    for ending in ("pdf", "png"):
        write_text(folder / f"optimizers.{ending}", content)
    write_coverage(folder, {"optimizers": [measured, wanted]})


def said(params: Params, *replace: str) -> str:
    lines: list[str] = []
    publish(params, replace, lines.append)
    return "\n".join(lines)


def test_a_table_is_published_once_and_again_when_it_changes(params: Params) -> None:
    target = published_folder(params)
    table(params)
    assert said(params) == f"published {target}/tables/table1"
    assert said(params) == ""
    table(params, value="51.00")
    assert said(params) == f"published {target}/tables/table1"
    assert (target / "tables/table1.md").read_text() == "value 51.00\n"


def test_a_table_of_times_is_published_on_request_alone(params: Params) -> None:
    folder, target = params.reports / "tables", published_folder(params)
    write_text(folder / "costs.csv", "method,metric,value,images,missing\nat,training_seconds,1.00,,false\n")
    assert "left out tables/costs: times are those of one machine" in said(params)
    assert not (target / "tables/costs.csv").exists()
    assert said(params, "tables/costs") == f"published {target}/tables/costs"


def test_a_table_with_fewer_numbers_or_fewer_images_does_not_replace_a_full_one(params: Params) -> None:
    target = published_folder(params)
    table(params)
    said(params)
    table(params, missing={("at", "aa_linf")}, value="52.00")
    assert "the new one lacks 1 numbers of the published one, among them aa_linf of at" in said(params)
    table(params, images=32, value="52.00")
    assert "4 numbers of the new one rest on fewer images" in said(params)
    assert (target / "tables/table1.md").read_text() == "value 50.00\n"
    assert "published" in said(params, "tables/table1")
    assert (target / "tables/table1.md").read_text() == "value 52.00\n"


def test_a_figure_of_which_less_is_measured_does_not_replace_one(params: Params) -> None:
    target = published_folder(params) / "figures"
    figure(params, measured=0)
    assert "of the new one 0 of 5 experiments are measured, there is none to replace" in said(params)
    assert not target.exists()
    figure(params, measured=5)
    assert "published" in said(params)
    figure(params, measured=1, content="a point and crosses")
    assert "of the new one 1 of 5 experiments are measured, of the published one 5" in said(params)
    assert (target / "optimizers.png").read_text() == "a picture" and read_coverage(target) == {"optimizers": [5, 5]}
    figure(params, measured=5, content="another picture")
    assert "published" in said(params)
    assert (target / "optimizers.pdf").read_text() == "another picture"


def test_a_published_figure_of_unknown_coverage_counts_as_whole(params: Params) -> None:
    target = published_folder(params) / "figures"
    write_text(target / "optimizers.png", "an older picture")
    figure(params, measured=4)
    assert "of the new one 4 of 5 experiments are measured, of the published one perhaps 5" in said(params)
    assert (target / "optimizers.png").read_text() == "an older picture"
    figure(params, measured=5)
    assert "published" in said(params)


def test_a_new_figure_of_unknown_coverage_counts_as_not_measured(params: Params) -> None:
    figure(params, measured=5)
    (params.reports / "figures" / COVERAGE).unlink()
    assert "of the new one 0 of 1 experiments are measured" in said(params)
    assert "published" in said(params, "figures/optimizers")


def test_a_published_table_that_the_suite_does_not_write_any_more_stays(params: Params) -> None:
    kept = published_folder(params) / "tables/table4.md"
    write_text(kept, "corruptions")
    table(params)
    assert said(params) == f"published {published_folder(params)}/tables/table1"
    assert kept.read_text() == "corruptions"


def test_a_summary_that_is_shorter_does_not_replace_a_longer_one(params: Params) -> None:
    write_text(params.reports / "search.md", "one\ntwo\n")
    said(params)
    write_text(params.reports / "search.md", "one\n")
    assert "the new search.md is shorter than the published one" in said(params)


def test_the_report_which_is_large_is_not_published(params: Params) -> None:
    table(params)
    write_text(params.reports / "report.html", "<p>")
    said(params)
    assert not list(published_folder(params).rglob("*.html"))


def test_without_anything_and_with_an_unknown_name_the_way_out_is_said(params: Params) -> None:
    with pytest.raises(PipelineError, match="has nothing to publish; 'make repro' fills it"):
        said(params)
    table(params)
    with pytest.raises(RequestError, match="--replace tables/table2: did you mean 'tables/table1'"):
        said(params, "tables/table2")
