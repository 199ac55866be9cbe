"""From runs in a real MLflow store to committed files and the page: what is written, judged, and noticed when old."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline.config import Experiment, Params, parse_params
from pipeline.config.composing import compose
from pipeline.core.files import file_digest
from pipeline.evaluation.verdicts import verdict_frame
from pipeline.reporting.intervals import Estimate
from pipeline.reporting.markdown import BLOCK
from pipeline.reporting.papers import control_claims, printed_figures, stated_claims
from pipeline.reporting.publishing import published_folder
from pipeline.reporting.reproduction import fill_page, find, gather, read_records, write_record
from pipeline.reporting.reproduction.claims import BLURRED, COSTS, Cost, judge, judge_cost, read_steps
from pipeline.reporting.reproduction.findings import paper_numbers
from pipeline.reporting.reproduction.record import Record
from pipeline.studies.cells import cells
from stages import publish
from stages.reproduction import main
from tests.conftest import REPOSITORY, composed
from tests.reporting.planting import plant

D = "generalist_d_nt_linf"
NAMES = ("study_scale", "study", "study_claims", "study_settings", "study_runs", "full", "costs")
SEEDS = (1, 2)
IMAGES = 60
ATTACKED = 30
RIGHT = {
    "nt": (54, 3),
    "at": (36, 24),
    D: (51, 21),
    "early": (57, 27),
    "c = 1/120": (48, 24),
    "c = 5/120": (54, 21),
    "other": (30, 12),
}
"""How many of 60 images are right, by experiment: natural, and under every attack."""


def verdicts(experiment: Experiment, natural: int, attacked: int) -> pd.DataFrame:
    """The first images are right; one more with the second seed."""
    more = experiment.seed - 1
    labels = [0] * IMAGES

    def predicted(right: int) -> list[int]:
        return [int(image >= right) for image in range(IMAGES)]

    frames = [verdict_frame("natural", labels, predicted(natural + more))]
    for name, attack in experiment.evaluation.attacks.items():
        count = ATTACKED if attack.name == "autoattack" else IMAGES
        right = attacked // 2 if attack.name == "autoattack" else attacked + 3 * (name == "pgd10_linf")
        frames.append(verdict_frame(name, labels[:count], predicted(right + more)[:count]))
    return pd.concat(frames, ignore_index=True)


def chosen(params: Params) -> Iterator[tuple[Experiment, tuple[int, int]]]:
    for method in ("nt", "at", D):
        yield from ((params.experiment(method, seed), RIGHT[method]) for seed in SEEDS)
    for cell in cells(params):
        if (cell.study, cell.setting) == ("decay_stages", "1-0-0-0"):
            yield cell.experiment, RIGHT["early"]
        elif cell.study == "communication_interval" and cell.experiment.name != D:
            yield cell.experiment, RIGHT[cell.setting]
    yield params.experiment("trades_1", 1), RIGHT["other"]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    overrides = ["suite=cifar10_study", "seeds=[1,2]", "ablation.studies.communication_interval.values=[1/120,5/120,1]"]
    made: dict[str, Any] = yaml.safe_load(compose(overrides, REPOSITORY / "conf"))
    return made


@pytest.fixture(scope="module")
def params(content: dict[str, Any]) -> Params:
    return parse_params(content)


@pytest.fixture(scope="module", autouse=True)
def store(params: Params, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("planted")
    shutil.copy(empty_store, folder / "runs.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
        patch.chdir(folder)
        for experiment, (natural, attacked) in chosen(params):
            history = [{"epoch": 1, "loss/linf": 2.0}, {"epoch": 2, "loss/linf": 1.5, "held_out/global/natural": 0.5}]
            shares = {"natural": natural / IMAGES, "pgd20_linf": attacked / IMAGES}
            made = verdicts(experiment, natural, attacked)
            plant(folder / experiment.identifier, experiment, shares, history, verdicts=made)
        yield folder


@pytest.fixture(scope="module")
def record(params: Params, store: Path) -> Record:
    return gather(params)


@pytest.fixture(scope="module")
def page(record: Record) -> str:
    return fill_page((REPOSITORY / "docs/reproduction.md").read_text(), [find(record)], None)


def of_claims(record: Record) -> dict[str, dict[str, Any]]:
    return {
        str(row["claim"]): {str(key): value for key, value in row.items()}
        for row in find(record).claims.to_dict("records")
    }


def test_evidence_is_what_the_runs_hold(record: Record, params: Params) -> None:
    assert {run.identifier for run in record.runs} == {one.identifier for one, _ in chosen(params)}
    run = record.of(D)[0]
    assert (run.seed, run.device, run.seconds, run.metrics["pgd20_linf"]) == (1, "cpu", 1.0, 21 / IMAGES)
    assert record.verdicts[D][2]["natural"].sum() == 52
    assert record.verdicts[D][1]["aa_linf"].isna().sum() == IMAGES - ATTACKED
    assert record.name("decay_stages", D, "1-1-1-0") == D
    assert record.experiments[f"{D}-1"]["method"]["mixture"]["decay"] == 0.9
    assert "root" not in record.experiments[f"{D}-1"]["data"]


def test_files_hold_all_of_it_and_are_equal_however_often_they_are_written(record: Record, tmp_path: Path) -> None:
    written = [write_record(record, tmp_path / name / "suite/network") for name in ("first", "second")]
    assert [file_digest(path) for path in written[0]] == [file_digest(path) for path in written[1]]
    assert len(written[0]) == 1 + 3 * len(record.runs)
    (read,) = read_records(tmp_path / "first").values()
    assert (read.suite, read.settings, read.runs) == (record.suite, record.settings, record.runs)
    for name, by_seed in record.verdicts.items():
        for seed, frame in by_seed.items():
            pd.testing.assert_frame_equal(read.verdicts[name][seed], frame)
    assert find(read).files() == find(record).files()


def test_files_of_runs_that_are_no_more_are_removed(record: Record, tmp_path: Path) -> None:
    write_record(record, tmp_path / "suite")
    written = write_record(replace(record, runs=record.of("nt")), tmp_path / "suite")
    assert {path for path in (tmp_path / "suite").rglob("*") if path.is_file()} == set(written)


def test_claims_are_judged_by_the_verdicts(record: Record) -> None:
    found = of_claims(record)
    line = found["line_nt_at_pgd20_linf"]
    # From NT (90 %, 5 %) and AT (60 %, 40 %), one point better each with the second seed as the point itself is.
    assert line["value"] == pytest.approx((35 * (85 - 90) + 30 * (35 - 5)) / (35**2 + 30**2) ** 0.5)
    assert (line["images"], line["seeds"]) == (IMAGES, 2)
    assert found["line_nt_at_aa_linf"]["images"] == ATTACKED
    assert line["verdict"] == "confirmed"
    early = found["late_decay_1-0-0-0"]
    assert early["value"] == pytest.approx(-10) and early["verdict"] == "not confirmed"
    for name in ("late_decay_1-1-0-0", "line_at_at_l2_pgd20_linf", "union_at_1", "union_at_linf_l2_2"):
        assert found[name]["verdict"] == "not measured" and pd.isna(found[name]["value"])


def number(images_low: float, images_high: float, seeds_low: float, seeds_high: float) -> Estimate:
    return Estimate(0.0, images_low, images_high, seeds_low, seeds_high, 100, 3)


ABOVE, BELOW, AROUND, CLOSE = (
    number(1, 2, 0.1, 3),
    number(-2, -1, -3, -1),
    number(1, 2, -1, 4),
    number(-0.5, 0.5, -0.9, 0.9),
)
NAN = float("nan")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (ABOVE, "confirmed"),
        (BELOW, "not confirmed"),
        (AROUND, BLURRED),
        (CLOSE, "less than a point, either way"),
        (number(-0.5, 0.5, -0.9, 1.1), BLURRED),
        (replace(number(1, 2, NAN, NAN), seeds=1), "one seed speaks for it"),
        (replace(number(-2, -1, NAN, NAN), seeds=1), "one seed speaks against it"),
        (replace(number(-1, 1, NAN, NAN), seeds=1), BLURRED),
        (None, "not measured"),
    ],
)
def test_verdicts(found: Estimate | None, verdict: str) -> None:
    assert judge(found) == verdict


def in_the_study_to_15(record: Record, study: str = "communication_interval_to_15") -> Record:
    """The record as if its study of c were that of the CVPR paper."""
    return replace(record, settings=[replace(one, study=study) for one in record.settings])


def test_a_claim_about_c_is_tested_at_the_papers_share_alone(record: Record) -> None:
    """Of 9 epochs, 1/120 and 5/120 are the papers' 1 and 5; 1 is 13 of 120, which they never tried."""
    found = of_claims(in_the_study_to_15(record))
    assert found["c_peak_1"]["value"] == pytest.approx(10) and found["c_peak_1"]["verdict"] == "confirmed"
    assert found["c_peak_15"]["verdict"] == "not measured"
    whole = [one for one in record.settings if "/120" not in one.text]
    assert any(one.study == "communication_interval" for one in whole)
    found = of_claims(in_the_study_to_15(replace(record, settings=whole)))
    assert found["c_peak_1"]["verdict"] == "not measured"


def test_every_control_names_experiments_that_the_narrow_suite_has() -> None:
    params = composed("suite=cifar10_narrow")
    grid = {(cell.study, cell.method, cell.setting) for cell in cells(params)}
    for row in control_claims():
        for address in row["experiments"].split("; "):
            method, *rest = address.split("/", 2)
            assert method in params.methods and (not rest or (rest[0], method, rest[1]) in grid), address
        assert set(row["views"].split("; ")) <= {"natural", *params.evaluation.attacks}


def test_every_claim_names_experiments_that_the_papers_suite_has() -> None:
    params = composed("suite=cifar10")
    grid = {(cell.study, cell.method, cell.setting) for cell in cells(params)}
    panels = {f"{row['paper']}, Figure {row['panel']}" for row in printed_figures().to_dict("records")}
    for row in stated_claims():
        for address in row["experiments"].split("; "):
            method, *rest = address.split("/", 2)
            assert method in params.methods
            if rest:
                study, text = rest
                assert (study, method, text.removesuffix("/120") if "c = " in text else text) in grid, address
        assert all(view in params.evaluation.attacks or view == "natural" for view in re.split(r"; |\+", row["views"]))
        for figure in re.findall(r"Figure \d+(?:\(\w\))?", row["source"]):
            papers = [paper for paper in ("CVPR", "Generalist++") if paper in row["source"]]
            assert any(panel.startswith(f"{paper}, {figure}") for panel in panels for paper in papers), row["source"]


STEPS = {
    "nt": {"median": 0.2, "least": 0.1, "most": 0.3},
    "at": {"median": 1.0, "least": 0.9, "most": 1.1},
    "fast": {"median": 0.8, "least": 0.7, "most": 0.85},
    "slow": {"median": 1.5, "least": 1.45, "most": 1.6},
}


@pytest.mark.parametrize(
    ("method", "others", "ratios", "verdict"),
    [
        ("fast", ("at",), (0.8, 0.7 / 1.1, 0.85 / 0.9), "confirmed"),
        ("slow", ("at",), (1.5, 1.45 / 1.1, 1.6 / 0.9), "not confirmed"),
        ("slow", ("nt", "at"), (1.25, 1.45 / 1.4, 1.6), "not confirmed"),
        ("at", ("at",), (1, 0.9 / 1.1, 1.1 / 0.9), "cannot be told from these rounds"),
    ],
)
def test_costs_are_judged_by_the_rounds(
    method: str, others: tuple[str, ...], ratios: tuple[float, ...], verdict: str
) -> None:
    found, said = judge_cost(Cost("", "", method, others), STEPS)
    assert found == pytest.approx(ratios) and said == verdict


def test_the_committed_benchmark_has_what_the_claims_on_time_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    steps = read_steps()
    assert steps is not None
    assert {name for cost in COSTS for name in (cost.method, *cost.others)} <= set(steps)


def test_no_table_of_the_study_prints_times_that_cannot_be_compared() -> None:
    params = composed("suite=cifar10_study")
    assert "training_seconds" not in {column.metric for table in params.tables.values() for column in table.columns}
    for path in (REPOSITORY / "reports/published/cifar10_study/small_cnn/tables").iterdir():
        assert "Time" not in path.read_text() and "training_seconds" not in path.read_text()


def test_settings_are_compared_with_the_method_and_attacks_with_each_other(record: Record) -> None:
    keys = ("study", "setting", "metric")
    found = {tuple(row[key] for key in keys): row for row in find(record).settings.to_dict("records")}
    early = found["decay_stages", "1-0-0-0", "pgd20_linf"]
    assert early["value"] == pytest.approx(10) and early["apart"] == "yes"
    assert found["switches", "PGD-20 that takes 10 steps", "pgd20_linf"]["value"] == pytest.approx(5)
    missing = found["switches", "BatchNorm recomputed", "natural"]
    assert pd.isna(missing["value"]) and missing["apart"] == "not measured"


def test_rows_have_intervals_over_seeds_and_no_paper_of_another_network(record: Record) -> None:
    rows = {(row["name"], row["metric"]): row for row in find(record).rows.to_dict("records")}
    assert rows[D, "pgd20_linf"]["mean"] == pytest.approx(35)
    assert rows["trades_1", "natural"]["seeds"] == 1 and pd.isna(rows["trades_1", "natural"]["low"])
    assert rows["generalist_t", "natural"]["seeds"] == 0
    assert all(pd.isna(row["paper"]) for row in rows.values())


def test_the_papers_numbers_are_those_of_their_network() -> None:
    assert paper_numbers("cifar10", "resnet18")["at", "natural"] == 84.32
    assert paper_numbers("cifar10", "resnet18")["nt", "natural"] == 93.04
    assert paper_numbers("cifar10", "small_cnn") == {}


def test_the_page_says_what_was_found_and_what_was_not(page: str, record: Record) -> None:
    assert "Generalist-D (NT + linf) lies above the line between NT and AT" in page
    assert "**confirmed**" in page and "**not confirmed**" in page and "**not measured**" not in page
    untested = [claim for claim in of_claims(record).values() if claim["verdict"] == "not measured"]
    assert f"{len(untested)} further claims are about settings that the study has not" in page
    assert "| here | 85.0 [85.0, 85.0] | 35.0 [35.0, 35.0] |" in page
    assert "REDUCED, not comparable to the papers" in page
    assert "| training images | 2,000 | 50,000 |" in page and "| t', c, decay | 6, 1, 0.9 | 75, 5, 0.999 |" in page
    assert "APGD-CE linf" in page and "PGD-20 that takes 10 steps" in page
    full = page.partition("## The papers' experiment")[2]
    assert "| papers | 84.32 | 48.29 | 44.37 |" in full and "None of these rows has been run here." in full
    assert full.index("`generalist_d_nt_linf` | `paper`") < full.index("`at` | `paper`") < full.index("`trades_1`")


def test_without_evidence_the_page_says_so_with_the_command() -> None:
    filled = fill_page((REPOSITORY / "docs/reproduction.md").read_text(), [], None)
    assert {found[2] for found in BLOCK.finditer(filled)} == set(NAMES)
    assert filled.count("Not measured (`make suite SUITE=cifar10_study && make ablation && python") == 5
    assert "Not measured (`python -m benchmarks methods`)." in filled
    with pytest.raises(KeyError):
        fill_page("<!-- measured: nothing -->\n<!-- end -->", [], None)


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ("suite=cifar10", "cifar10/resnet18"),
        ("suite=cifar10 architecture=wrn32_10", "cifar10/wrn32_10"),
        ("suite=cifar10 protocol=reference_code", "cifar10/resnet18_reference_code"),
        ("suite=cifar10 architecture=wrn32_10 protocol=reference_code", "cifar10/wrn32_10_reference_code"),
        ("suite=mnist architecture=small_cnn", "mnist/small_cnn"),
    ],
)
def test_every_suite_network_and_protocol_has_a_folder_of_its_own(overrides: str, folder: str) -> None:
    params = composed(*overrides.split())
    assert params.reports == Path("reports", folder)
    assert published_folder(params) == Path("reports/published", folder)


def test_what_is_published_follows_from_the_record_and_what_is_old_is_noticed(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "docs").mkdir()
    shutil.copy(REPOSITORY / "docs/reproduction.md", "docs")
    assert main([]) == 0
    working, folder = Path("reports/cifar10_study/small_cnn"), Path("reports/published/cifar10_study/small_cnn")
    for name in ("reproduction.json", "rows.csv", "settings.csv", "claims.csv", f"curves/{D}-1.csv"):
        assert (working / name).exists() and not (folder / name).exists()
    assert str(tmp_path) not in (working / f"experiments/{D}-1.yaml").read_text()
    assert publish.main([]) == 0
    assert f"published {folder / 'record'}" in capsys.readouterr().out
    assert (folder / f"curves/{D}-1.csv").read_bytes() == (working / f"curves/{D}-1.csv").read_bytes()
    assert publish.main(["--check"]) == 0
    for path in (Path("docs/reproduction.md"), folder / "claims.csv"):
        text = path.read_text()
        path.write_text(text.replace("confirmed", "disproved", 1))
        capsys.readouterr()
        assert publish.main(["--check"]) == 1
        assert f"not up to date: {path}; 'python -m stages.publish --pages' writes" in capsys.readouterr().err
        assert publish.main(["--pages"]) == 0
        assert path.read_text() == text


def test_without_runs_nothing_is_written(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content | {"seeds": [7]}, sort_keys=False))
    assert main([]) == 1
    assert "no finished run of suite 'cifar10_study'" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_the_committed_page_and_files_are_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert publish.main(["--check"]) == 0, capsys.readouterr().err
