"""Texts, pictures and charts of the page."""

from __future__ import annotations

import base64
import io
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import EvaluationSettings
from pipeline.reporting.page.charts import BOTTOM, HEIGHT, LETTER, TOP, WIDTH, Point, line_chart, scatter
from pipeline.reporting.page.text import describe, duration, heat, html, picture, plain

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


points = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.text("ab", min_size=1, max_size=25)), min_size=1)


@given(points)
def test_labels_of_points_cover_nothing_and_stay_inside(given_points: list[tuple[float, float, str]]) -> None:
    made = [Point(label, "#", (x, y), 0, False) for x, y, label in given_points]
    chart = scatter("title", "x", "y", ["all"], made)
    boxes = []
    for point in chart["points"]:
        assert 0 <= point.x <= WIDTH and 0 <= point.y <= HEIGHT
        if point.anchor:
            width = LETTER * len(point.label)
            left = point.label_x - {"start": 0, "middle": width / 2, "end": width}[point.anchor]
            boxes.append((left, point.label_y - 11, left + width, point.label_y + 2))
    for left, top, right, bottom in boxes:
        assert left >= -0.1 and right <= WIDTH + 0.1 and top >= -0.1 and bottom <= HEIGHT
    for one, other in combinations(boxes, 2):
        apart = (
            one[2] <= other[0] + 0.2 or other[2] <= one[0] + 0.2 or one[3] <= other[1] + 0.2 or other[3] <= one[1] + 0.2
        )
        assert apart


def test_lines_go_up_where_values_do() -> None:
    chart = line_chart("title", {"a": [(1, 0.0), (2, 50.0), (3, 100.0)], "b": [(3, 25.0)]}, "%", marked=2, most=100)
    places = [tuple(map(float, point.split(","))) for point in chart["lines"][0]["path"].split()]
    assert places == sorted(places) and [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert [line["last"] for line in chart["lines"]] == ["100", "25"]
    assert chart["marked"] == places[1][0]
    assert [label for _, label in chart["x"]["ticks"]] == ["1", "2", "3"]
    assert all(TOP <= place <= BOTTOM for place, _ in chart["y"]["ticks"])


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_is_a_line_in_the_middle(value: float) -> None:
    chart = line_chart("title", {"a": [(1, value), (2, value)]}, "")
    (_, y), (_, other) = (map(float, point.split(",")) for point in chart["lines"][0]["path"].split())
    assert y == other and TOP < y < BOTTOM
