"""The report of a real suite: what is in it, without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.reporting.results import collect
from pipeline.reporting.tables import lay_out, of_suite
from stages import figures, report
from tests.reporting.page.conftest import ATTACK, MEASURED, Suite


class Tables(HTMLParser):
    """The text of every cell of every table of `params.yaml`, by table and row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self._table = ""
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = dict(attrs).get("data-table") or ""
            self.rows.setdefault(self._table, [])
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self._in_cell = True
            self.rows[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[self._table][-1][-1] += data


def written(suite: Suite, folder: Path, *arguments: str) -> str:
    path = folder / "report.html"
    assert report.main(["--output", str(path), *arguments]) == 0
    return path.read_text()


def test_every_cell_of_every_table_is_there(here: Suite, tmp_path: Path) -> None:
    page = written(here, tmp_path)
    layout = lay_out(of_suite("table1", here.params, collect(here.params)["table1"]))
    header, *rows = Tables(page).rows["table1"]
    assert len(header) == 8 and len(rows) == 4
    for row, shown in zip(layout.rows, rows, strict=True):
        for cell, text in zip(row.cells, shown[1:], strict=True):
            assert text.strip() == f"{cell.value or '--'}{f' ± {cell.std}' if cell.std else ''}{cell.marks}"
    assert "Nothing is measured on corrupted images: <code>ood.methods</code> in" in page


def test_what_is_not_measured_says_what_measures_it(here: Suite, tmp_path: Path) -> None:
    page = written(here, tmp_path)
    missing = page.partition('id="experiment-generalist_d_linf_l2-1"')[2].partition("</article>")[0]
    assert "Not measured yet: <code>dvc repro evaluate@generalist_d_linf_l2-1</code>." in missing
    assert "breakpoints" in missing and "<svg" not in missing
    assert "measured <b>3 of 4</b>" in page


def test_every_experiment_has_its_curves_classes_examples_and_costs(here: Suite, tmp_path: Path) -> None:
    page = written(here, tmp_path)
    assert len(page.encode()) < 8 * 2**20
    for method in MEASURED:
        part = page.partition(f'id="experiment-{method}-1"')[2].partition("</article>")[0]
        assert part.count('<figure class="chart">') >= 4
        assert part.count('class="example"') == 6
        assert part.count('class="heat"') == 18
        assert "images/s" in part and "#/experiments/1/runs/" in part
        assert re.search(r"Selected epoch</dt><dd>\d of 4", part)


def test_nothing_from_the_settings_becomes_markup(here: Suite, tmp_path: Path) -> None:
    page = written(here, tmp_path)
    assert ATTACK not in page and "taken over" in page
    (policy,) = re.findall(r"script-src ([^;]+);", page)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.split() == [f"'sha256-{digest}'" for digest in digests] and len(digests) == 2


def test_mlflow_alone_gives_the_same_bytes_again(
    here: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert figures.main([]) == 0
    first = written(here, tmp_path / "first")
    capsys.readouterr()
    assert written(here, tmp_path / "again") == first
    assert "crafting" not in capsys.readouterr().out
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(here.folder / "params.yaml", copy)
    shutil.copytree(here.folder / "data", copy / "data")
    monkeypatch.chdir(copy)  # neither runs/ nor results/
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here.folder}/mlflow.db")
    assert figures.main([]) == 0
    assert written(here, tmp_path / "elsewhere") == first
    assert "crafting" in capsys.readouterr().out


def test_without_images_the_rest_is_there(here: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(here.folder / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here.folder}/mlflow.db")
    page = written(here, tmp_path)
    assert page.count("is missing, data set &#39;digits&#39; is not prepared") == 3
    assert "python -m stages.prepare" in page
    assert Tables(page).rows["table1"] == Tables(written(here, tmp_path, "--examples", "0")).rows["table1"]


def test_files_that_mlflow_lacks_are_named(here: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"nt": "model.safetensors", "at": "history.json", MEASURED[2]: "verdicts.parquet"}
    hidden = {}
    for path in (here.folder / "mlartifacts").glob("digits/*/artifacts/experiment.json"):
        method = yaml.safe_load(path.read_text())["name"]
        hidden[path.with_name(lost[method])] = path.with_name("hidden-" + lost[method])
    shutil.copytree(here.folder / "data", tmp_path / "data")
    shutil.copy(here.folder / "params.yaml", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here.folder}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    for path, place in hidden.items():
        path.rename(place)
    try:
        page = written(here, tmp_path)
    finally:
        for path, place in hidden.items():
            place.rename(path)
    assert "the weights of nt-1 are not in MLflow. &#39;make tables&#39; logs them again where results/" in page
    assert "damaged: <code>dvc repro --force train@at-1 evaluate@at-1</code>" in page
    assert "MLflow lacks the verdicts, or they are damaged" in page
    assert page.count('class="example"') == 0 and len(Tables(page).rows["table1"]) == 5


def test_figures_have_their_captions(here: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw_into(folder: str) -> Any:
        content = yaml.safe_load((here.folder / "params.yaml").read_text())
        content["reports_folder"] = folder
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    draw_into("reports/nowhere")
    given = ["--params", str(tmp_path / "params.yaml"), "--examples", "0"]
    page = written(here, tmp_path, *given)
    assert "<code>trade_off_natural</code>, <code>grad_cam_l2</code>. <code>make repro figures</code>" in page
    draw_into("reports/some")
    assert figures.main(["--params", str(tmp_path / "params.yaml"), "grad_cam_l2"]) == 0
    page = written(here, tmp_path, *given)
    assert "Not measured or not drawn yet: <code>trade_off_natural</code>." in page
    assert "Generalist++, Figure 8(b). <code>grad_cam_l2</code>" in page


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("sqlite:///EMPTY", 1, "has no finished run of suite 'digits'"),
        ("sqlite:///nowhere.db", 1, "there is no MLflow store at"),
        ("http://127.0.0.1:9", 1, "MLflow at http://127.0.0.1:9 is out of reach"),
        ("mlruns", 2, "is a folder, which MLflow no longer takes"),
    ],
)
def test_a_store_without_runs_is_said_plainly(
    here: Suite,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("EMPTY", str(empty_store)))
    assert report.main(["--output", str(tmp_path / "report.html")]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "report.html").exists()


def test_an_unknown_method_is_said_plainly(here: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load((here.folder / "params.yaml").read_text())
    content["tables"]["table1"]["rows"] = ["generalist_d_nt_lin"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert report.main(["--params", str(tmp_path / "params.yaml")]) == 2
    assert "did you mean 'generalist_d_nt_linf'?" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["-1", "many"])
def test_a_number_of_examples_is_a_number(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        report.main([f"--examples={count}"])
    assert f"expected a whole number from 0 on, got '{count}'" in capsys.readouterr().err
