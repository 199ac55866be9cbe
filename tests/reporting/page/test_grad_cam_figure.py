"""The Grad-CAM figure of a suite that was really trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from pipeline.config import FigureSource, Params, parse_params
from pipeline.config.figures import NothingToShow
from pipeline.core.errors import RequestError
from pipeline.provenance.folders import RUNS, prepared_folder, results_folder
from pipeline.reporting.examples import Pictures
from pipeline.reporting.style import style
from pipeline.tracking import finished_runs
from tests.reporting.page.conftest import MEASURED, Suite

Draw = Callable[..., Figure]


@pytest.fixture
def draw(here: Suite) -> Draw:
    """`draw(view="natural")` draws the suite's Grad-CAM figure with changed settings."""

    def make(params: Params = here.params, prepared: Path | None = None, **changes: Any) -> Figure:
        settings = params.figures["grad_cam_l2"].model_copy(update=changes)
        pictures = Pictures(prepared or prepared_folder("digits"), RUNS)
        with style():
            return settings.draw(FigureSource(params, finished_runs(params.experiments()), (), pictures))

    return make


def texts(figure: Figure) -> str:
    said = [text.get_text() for text in figure.texts]
    return " ".join([*said, *([figure._supxlabel.get_text()] if figure._supxlabel else [])]).replace("\n", " ")  # type: ignore[attr-defined]


def test_rows_are_images_that_the_method_gets_right_and_others_get_wrong(draw: Draw, here: Suite) -> None:
    figure = draw(images=3)
    experiments = {name: here.params.experiment(name, 1) for name in MEASURED}
    verdicts = {
        name: pd.read_parquet(results_folder(experiment) / "evaluate/verdicts.parquet")
        .query("attack == 'pgd20_l2'")
        .set_index("image")
        for name, experiment in experiments.items()
    }
    cells = [[axes.get_xlabel() for axes in figure.axes[start : start + 4]] for start in range(0, len(figure.axes), 4)]
    assert [axes.get_title().split("\n")[0] for axes in figure.axes[:4]] == ["image", "NT", "AT", "Generalist-D"]
    assert 1 <= len(cells) <= 3
    for label, *shown in cells:
        assert shown[-1] == f"✓ {label}"
        assert any(cell.startswith("✗") for cell in shown[:-1])
        matching = pd.concat(
            [
                (table["label"].astype(str) == label) & (table["predicted"].astype(str) == cell[2:])
                for table, cell in zip(verdicts.values(), shown, strict=True)
            ],
            axis=1,
        )
        assert matching.all(axis=1).any()


def test_classes_are_called_by_their_names(draw: Draw, here: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = here.params.experiment("nt", 1).data.facts
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    monkeypatch.setattr("pipeline.config.data._facts", lambda *given: replace(facts, classes=names))
    shown = {axes.get_xlabel().removeprefix("✓ ").removeprefix("✗ ") for axes in draw(images=3).axes}
    assert len(shown) >= 2 and shown <= set(names)


def test_what_is_not_measured_is_said_beside_the_others(draw: Draw) -> None:
    figure = draw(baselines=["nt", "generalist_d_linf_l2"])
    assert len(figure.axes) % 3 == 0
    assert texts(figure).startswith("Not measured: Generalist-D")
    with pytest.raises(NothingToShow, match=r"Generalist-D .* not measured; 'make repro figures'"):
        draw(methods=["generalist_d_linf_l2"])


def test_where_no_image_is_disputed_it_says_so(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reporting.examples.disputed", lambda *given: [])
    with pytest.raises(NothingToShow, match="there is no test image that Generalist-D"):
        draw()


def test_without_prepared_images_it_says_what_prepares_them(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(NothingToShow, match=r"'python -m stages\.prepare' writes it anew"):
        draw(prepared=tmp_path)


def test_only_attacks_that_can_be_repeated_for_single_images(here: Suite) -> None:
    content = yaml.safe_load((here.folder / "params.yaml").read_text())
    content["figures"]["grad_cam_l2"]["view"] = "aa_l2"
    with pytest.raises(RequestError, match=r"cannot show 'aa_l2': .* Valid: natural, pgd20_linf, pgd20_l2, large_linf"):
        parse_params(content)


def test_settings_are_checked(here: Suite) -> None:
    content = yaml.safe_load((here.folder / "params.yaml").read_text())
    content["figures"]["grad_cam_l2"]["images"] = 0
    with pytest.raises(RequestError, match=r"figures\.grad_cam_l2\.images"):
        parse_params(content)
    content["figures"]["grad_cam_l2"] |= {"methods": ["generalist"], "view": "pgd_l2", "images": 1}
    with pytest.raises(RequestError, match="unknown attack 'pgd_l2'") as caught:
        parse_params(content)
    assert "unknown method 'generalist'" in str(caught.value)
