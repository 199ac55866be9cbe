"""Names beside the points of a crowded plot, joined to them by a line where they stand further away.

A name may stand in any of `DIRECTIONS` at any of `DISTANCES` from its point. Where it stands costs what it covers and
how far away that is; names move one after another to the place that is then cheapest, until none moves any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
SAME_PLACE = 1.5
"""Points (1/72 inch): markers that lie no further apart hide each other, and have their names together."""
DIRECTIONS = 32
DISTANCES = (2, 4, 7, 10, 14, 18, 23, 28, 34, 41, 49, 58, 68, 80, 95)
"""Points between the edge of a marker and its name."""
JOINED = 4.0
"""Points between a marker and its name from which on a line joins them."""
CLEARANCE = 1.0
"""Points between a name and what it must not touch."""
OUTSIDE, ON_NAME, ON_MARKER, ON_JOIN, ON_LINE, AWAY = 1000.0, 300.0, 200.0, 100.0, 6.0, 0.3
"""What it costs to leave the axes, to touch another name, a marker, a line that joins or any other line, and each point
between a marker and its name. A line that joins costs the same where it touches a name or a marker."""
ROUNDS = 20
ATTEMPTS, KEPT = 40, 0.7
"""How often names are placed until there is no conflict, and the share that keep their places."""
LEADER: dict[str, Any] = {"color": "#9a9a9a", "linewidth": 0.4, "zorder": 0.9, "gid": "leader"}


@dataclass(frozen=True)
class Candidates:
    """Where one name may stand, k places; pixels."""

    boxes: Array
    """(k, 4): left, bottom, right, top."""
    joins: Array
    """(k, 2, 2): both ends of the line from the point to its name; the point itself twice where there is none."""
    costs: Array
    """(k,): what each place costs, wherever the other names stand."""


def place_labels(
    axes: Axes, points: Array, names: Sequence[str], size: float, markers: Array, diameters: Array, lines: Array
) -> None:
    """Write names beside points; the limits of the axes and the layout of the figure are final.

    Args:
        axes: Where; coordinates are its data's.
        points: (n, 2).
        names: n, each of one line or more.
        size: Of the letters, points.
        markers: (m, 2), of all points, those without a name, too.
        diameters: (m,), points.
        lines: (any, 2, 2): both ends of what else is drawn.
    """
    texts = [axes.text(0, 0, name, fontsize=size, linespacing=1.05, va="bottom") for name in names]
    to_pixels, to_data = axes.transData.transform, axes.transData.inverted().transform
    pixels = [to_pixels(one.reshape(-1, 2)).reshape(one.shape) for one in (points, markers, lines)]
    scale = axes.figure.dpi / 72
    found = [
        _candidates(axes, point, np.asarray(text.get_window_extent().size), pixels[1], diameters / 2, pixels[2], scale)
        for point, text in zip(pixels[0], texts, strict=True)
    ]
    for text, one, chosen in zip(texts, found, _choose(found, CLEARANCE * scale), strict=True):
        box, join = one.boxes[chosen], one.joins[chosen]
        text.set_position(tuple(to_data(box[:2])))
        text.set_multialignment("right" if box[2] < join[0, 0] else "left")
        if (join[0] != join[1]).any():
            axes.plot(*to_data(join).T, **LEADER)


def _candidates(
    axes: Axes, point: Array, extent: Array, markers: Array, radii: Array, lines: Array, scale: float
) -> Candidates:
    """All places for the name of one point.

    Args:
        axes: What is not left.
        point: (2,), pixels.
        extent: Width and height of the name, pixels.
        markers: (m, 2), pixels.
        radii: (m,), points.
        lines: (any, 2, 2), pixels.
        scale: Pixels in a point.
    """
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False)
    towards = np.tile(np.stack([np.cos(angles), np.sin(angles)], axis=1), (len(DISTANCES), 1))
    away = np.repeat(np.asarray(DISTANCES, dtype=float), DIRECTIONS)
    own = np.abs(markers - point).max(axis=1) <= SAME_PLACE * scale
    reach = radii[own].max(initial=0) + away
    centres = point + towards * reach[:, None] * scale + np.clip(1.5 * towards, -1, 1) * extent / 2
    boxes = np.concatenate([centres - extent / 2, centres + extent / 2], axis=1)
    nearest = np.clip(point, boxes[:, :2], boxes[:, 2:])
    joins = np.stack([np.broadcast_to(point, nearest.shape), np.where(away[:, None] >= JOINED, nearest, point)], axis=1)

    bounds = axes.get_window_extent()
    outside = (boxes[:, :2] < bounds.min).any(axis=1) | (boxes[:, 2:] > bounds.max).any(axis=1)
    kept = (radii + CLEARANCE) * scale
    beside = np.maximum(np.maximum(boxes[:, None, :2] - markers, markers - boxes[:, None, 2:]), 0)
    on_markers = (np.hypot(*beside.transpose(2, 0, 1)) < kept).sum(axis=1)
    others = np.hypot(*(markers - point).T) >= kept  # what is on the very point cannot be kept off
    joined_through = (_distances(markers[others], joins) < kept[others]).sum(axis=1)
    on_lines = _touches(boxes, lines).sum(axis=1)
    costs = OUTSIDE * outside + ON_MARKER * (on_markers + joined_through) + ON_LINE * on_lines + AWAY * away
    likely = costs < costs.min() + ON_NAME
    return Candidates(boxes[likely], joins[likely], costs[likely])


def _choose(found: Sequence[Candidates], clearance: float) -> list[int]:
    """For each name, which of its places it has.

    After each attempt that leaves conflicts, names that have one and some others are taken away and placed anew.
    """
    random = np.random.default_rng(0)
    best: dict[int, tuple[int, float]] = {}
    for _ in range(ATTEMPTS):
        kept = {name: place for name, (place, cost) in best.items() if cost < ON_JOIN and random.random() < KEPT}
        tried = _settle(found, random.permutation(len(found)).tolist(), kept, clearance)
        if not best or sum(cost for _, cost in tried.values()) < sum(cost for _, cost in best.values()):
            best = tried
        if all(cost < ON_JOIN for _, cost in best.values()):
            break
    return [best[name][0] for name in range(len(found))]


def _settle(
    found: Sequence[Candidates], order: list[int], chosen: dict[int, int], clearance: float
) -> dict[int, tuple[int, float]]:
    """Place names in an order, then move each in turn until none moves: the place of each, and what it costs."""
    costs: dict[int, float] = {}
    for _ in range(ROUNDS):
        before = dict(chosen)
        for name in order:
            others = [(found[other], place) for other, place in chosen.items() if other != name]
            boxes = np.array([other.boxes[place] for other, place in others]).reshape(-1, 4)
            joins = np.array([other.joins[place] for other, place in others]).reshape(-1, 2, 2)
            possible = found[name].costs + _conflicts(found[name], boxes, joins, clearance)
            chosen[name] = int(possible.argmin())
            costs[name] = float(possible[chosen[name]])
        if chosen == before:
            break
    return {name: (place, costs[name]) for name, place in chosen.items()}


def _conflicts(own: Candidates, boxes: Array, joins: Array, clearance: float) -> Array:
    """What each place of a name costs because of where the others are, and their lines: (k,)."""
    apart = np.maximum(own.boxes[:, None, :2] - boxes[:, 2:], boxes[:, :2] - own.boxes[:, None, 2:]).max(axis=2)
    on_joins = _touches(own.boxes, joins) | _touches(boxes, own.joins).T | _cross(own.joins, joins)
    costs: Array = (ON_NAME * (apart < clearance) + ON_JOIN * on_joins).sum(axis=1)
    return costs


def _touches(boxes: Array, lines: Array) -> NDArray[np.bool_]:
    """Which of boxes (k, 4) are on which of lines (n, 2, 2): (k, n)."""
    start, along = lines[:, 0], lines[:, 1] - lines[:, 0]
    along = np.where(along == 0, 1e-9, along)
    ends = np.stack([boxes[:, None, :2] - start, boxes[:, None, 2:] - start]) / along  # shares of the line
    enters, leaves = ends.min(axis=0).max(axis=2), ends.max(axis=0).min(axis=2)
    touched: NDArray[np.bool_] = np.maximum(enters, 0) <= np.minimum(leaves, 1)
    return touched


def _distances(points: Array, lines: Array) -> Array:
    """From points (m, 2) to lines (n, 2, 2): (n, m)."""
    start, along = lines[:, None, 0], lines[:, None, 1] - lines[:, None, 0]
    share = ((points - start) * along).sum(axis=2) / np.maximum((along**2).sum(axis=2), 1e-9)
    apart = points - start - np.clip(share, 0, 1)[..., None] * along
    distances: Array = np.hypot(apart[..., 0], apart[..., 1])
    return distances


def _cross(one: Array, other: Array) -> NDArray[np.bool_]:
    """Which of lines (k, 2, 2) cross which of lines (n, 2, 2): (k, n)."""
    (a, b), (c, d) = one[:, None].transpose(2, 0, 1, 3), other[None].transpose(2, 0, 1, 3)

    def turn(start: Array, end: Array, place: Array) -> Array:
        """On which side of a line a place is, by its sign."""
        along, beside = end - start, place - start
        side: Array = along[..., 0] * beside[..., 1] - along[..., 1] * beside[..., 0]
        return side

    crossing: NDArray[np.bool_] = (turn(a, b, c) * turn(a, b, d) < 0) & (turn(c, d, a) * turn(c, d, b) < 0)
    return crossing
