"""The look of figures: what is saved is the same everywhere, and needs no colour to be read."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import RequestError
from pipeline.reporting.style import (
    COLOURS,
    COLUMN_WIDTH,
    RESOLUTION,
    figure_text,
    looks,
    new_figure,
    note_below,
    save,
    style,
)


def draw(folder: Path) -> list[bytes]:
    with style():
        figure = new_figure(COLUMN_WIDTH, 2)
        axes = figure.add_subplot()
        for name, look in looks(["a", "b", "c"]).items():
            axes.plot([0, 1], [1, len(name)], color=look.colour, marker=look.marker, linestyle=look.line, label=name)
        axes.set_title(figure_text(r"AT ($\ell_\infty$) AA_{2}"))
        axes.legend()
        return [path.read_bytes() for path in save(figure, folder, "drawn")]


def test_equal_figures_have_equal_bytes_whatever_the_machine_prefers(tmp_path: Path) -> None:
    first = draw(tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "text.usetex": True}):
        assert draw(tmp_path / "second") == first
        assert matplotlib.rcParams["font.size"] == 20
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["drawn.pdf", "drawn.png", "drawn.svg"]


def test_files_are_vector_of_the_stated_width_without_dates(tmp_path: Path) -> None:
    pdf, png, svg = draw(tmp_path)
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    assert float(box[0]) == pytest.approx(COLUMN_WIDTH * 72)
    assert b"/Subtype /Image" not in pdf
    assert b"CreationDate" not in pdf and b"date>" not in svg and b"<image" not in svg
    assert b"FontFile2" in pdf
    (tmp_path / "again.png").write_bytes(png)
    with Image.open(tmp_path / "again.png") as image:
        assert image.size[0] == int(COLUMN_WIDTH * RESOLUTION)


@given(st.integers(1, 60))
def test_looks_differ_without_colour(count: int) -> None:
    made = list(looks(str(number) for number in range(count)).values())
    assert len({(look.marker, look.line) for look in made}) == count


def lightness(colour: str) -> float:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return float(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2)


def test_colours_can_be_seen_on_white_and_neighbours_differ_in_grey() -> None:
    assert all(lightness(colour) < 0.5 for colour in COLOURS)
    assert all(abs(lightness(one) - lightness(other)) > 0.05 for one, other in pairwise(COLOURS))
    assert all(one != other for one, other in combinations(COLOURS, 2))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"AT ($\ell_\infty$)", r"AT ($\ell_\infty$)"),
        ("PGD_{2}^{20}", "PGD$_{2}$$^{20}$"),
        ("costs 5 US$", r"costs 5 US\$"),
        ("`slow_at` 100% | x_y", "slow_at 100% | x_y"),
    ],
)
def test_labels_keep_their_markup(source: str, shown: str) -> None:
    assert figure_text(source) == shown


def test_a_remark_is_broken_to_the_width_but_not_within_math() -> None:
    with style():
        figure = new_figure(COLUMN_WIDTH, 2)
        note_below(figure, " ".join([r"TRADES ($\beta = 1$), costs 5 US\$,"] * 9))
        figure.draw_without_rendering()
        (remark,) = figure.texts
        box = remark.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
        assert remark.get_text().count("\n") >= 3
        assert all(line.count("$") % 2 == line.count(r"\$") % 2 for line in remark.get_text().splitlines())


def test_math_that_cannot_be_drawn_is_named() -> None:
    with pytest.raises(RequestError, match=r"label 'a \$\\frobnicate\{x\}\$' has math.*[Uu]nknown symbol"):
        figure_text(r"a $\frobnicate{x}$")
