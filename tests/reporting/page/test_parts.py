"""Texts, pictures and charts of the page."""

from __future__ import annotations

import base64
import io

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import EvaluationSettings
from pipeline.reporting.page.charts import line_chart, scatter
from pipeline.reporting.page.text import describe, duration, heat, html, picture, plain
from pipeline.reporting.style import looks

ELL = "\N{SCRIPT SMALL L}"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"AT ($\ell_\infty$)", f"AT ({ELL}<sub>∞</sub>)"),
        ("PGD_{2}^{20}", "PGD<sub>2</sub><sup>20</sup>"),
        ('`dvc <x>` & "b"', "<code>dvc &lt;x&gt;</code> &amp; &#34;b&#34;"),
        ("$a < b$", "a &lt; b"),
        (r"$\frac{1}{<b>}$", r"$\frac{1}{&lt;b&gt;}$"),
        ("5 US$", "5 US$"),
    ],
)
def test_texts_become_html(source: str, shown: str) -> None:
    assert html(source) == shown


@given(st.text(alphabet="<>&\"'`$_^{}ab\\ "))
def test_no_text_becomes_a_tag_of_its_own(source: str) -> None:
    rest = html(source)
    for tag in ("sub", "sup", "code"):
        rest = rest.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
    assert "<" not in rest and ">" not in rest


def test_plain_texts_have_no_tags() -> None:
    assert plain(r"AT ($\ell_\infty$) & `x`") == f"AT ({ELL}∞) & x"


def test_attacks_are_described() -> None:
    common = {"norm": "l1", "epsilon": 12}
    attacks = {
        "a": {**common, "name": "autoattack", "norm": "linf", "epsilon": "8/255"},
        "b": {**common, "name": "noise", "draws": 7},
        "c": {**common, "name": "pgd", "step_size": 1, "steps": 20},
    }
    settings = EvaluationSettings.model_validate({"batch_size": 1, "attacks": attacks, "union": ["a", "b"]})
    assert [plain(describe(attack)) for attack in settings.attacks.values()] == [
        f"AutoAttack, {ELL}∞ ε = 8/255",
        f"random noise, 7 draws, {ELL}1 ε = 12",
        f"PGD, 20 steps, {ELL}1 ε = 12",
    ]


def test_times_are_said_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.04, 59.94, 60, 3599.4, 90_000)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "59 min 59 s",
        "25 h 00 min",
    ]


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))


@pytest.mark.parametrize(("channels", "size", "shown"), [(1, 8, 8), (3, 32, 32), (3, 224, 96)])
def test_pictures_are_the_images(channels: int, size: int, shown: int) -> None:
    pixels = torch.randint(
        0, 256, (channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    image = decoded(picture(pixels))
    assert image.size == (shown, shown)
    if shown == size:
        values = torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(size, size, channels)
        assert torch.equal(values.permute(2, 0, 1), pixels)


def test_maps_are_opaque_where_they_are_strong() -> None:
    strengths = torch.arange(64, dtype=torch.uint8).view(8, 8) * 4
    opacity = decoded(heat(strengths)).getchannel("A")
    values = list(opacity.tobytes())
    assert opacity.size == (8, 8) and values == sorted(values) and values[0] < 50 < 150 < values[-1]


LOOKS = looks(["all", "b"])


def test_lines_have_the_figures_looks_and_numbers_that_a_reader_can_use() -> None:
    chart = line_chart("title", {"all": [(1, 0.0), (2, 1 / 3)], "b": [(3, 25.0)]}, "%", LOOKS, marked=2)
    assert [(line["x"], line["y"]) for line in chart["series"]] == [([1, 2], [0.0, 0.33333]), ([3], [25.0])]
    assert [line["colour"] for line in chart["series"]] == [LOOKS["all"].colour, LOOKS["b"].colour]
    assert [line["dash"] for line in chart["series"]] == ["solid", "8px,3px"] and chart["marked"] == 2


places = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30)


@given(places)
def test_a_scatter_shows_all_points_but_those_far_below(points: list[tuple[float, float]]) -> None:
    table = pd.DataFrame(points, columns=["x", "y"])
    table["label"] = table["key"] = table["x_said"] = table["y_said"] = [f"at-{place}" for place in range(len(points))]
    chart = scatter("title", "x", "y", table.assign(group="all"), table.head(1), LOOKS)
    ends = [chart["near"][axis] for axis in "xy"]
    for label, *point in table[["label", "x", "y"]].itertuples(index=False):
        inside = all(low <= value <= high for value, (low, high) in zip(point, ends, strict=True))
        assert inside == (label not in chart["outside"])
    assert all(low >= 0 and table[axis].max() <= high <= 100 for axis, (low, high) in zip("xy", ends, strict=True))


def test_a_point_far_below_is_left_for_a_second_look() -> None:
    table = pd.DataFrame({"x": [90.0, 91, 92, 93, 94], "y": [50.0, 51, 52, 53, 2]}).assign(label=list("abcde"))
    named = table.assign(group="all", key="at-1", x_said="90", y_said="50 (45 to 55)")
    chart = scatter("", "x", "y", named, table.assign(key=""), LOOKS)
    assert chart["outside"] == ["e"] and chart["series"][0]["said"][0] == ["90", "50 (45 to 55)"]
