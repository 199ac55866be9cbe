"""What lies on what in a drawn figure, measured on its artists."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def xs(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


def texts(figure: Figure) -> list[Text]:
    """What can be read: ticks beyond the limits of their axis exist, but are not drawn."""
    hidden = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [item for item in figure.findobj(Text) if isinstance(item, Text)]
    return [text for text in found if text not in hidden and text.get_visible() and text.get_text().strip()]


def clear_of(box: Bbox, x: float, y: float) -> float:
    """How far a point is from a box."""
    return float(np.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0)))


def check_layout(name: str, figure: Figure) -> None:
    """No text leaves the page, touches another text or lies on a marker; curves differ without colour.

    Error bars may pass behind a text.
    """
    page = figure.bbox.padded(2)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    for number, (said, box) in enumerate(boxes):
        inside = page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert inside, f"{name}: '{said}' leaves the page"
        touched = [other for other, place in boxes[:number] if box.padded(-1).overlaps(place.padded(-1))]
        assert not touched, f"{name}: '{said}' lies on {touched}"
    for axes in figure.axes:
        curves = [line for line in axes.get_lines() if line.get_gid() is None and line.get_linestyle() != "None"]
        curves = [line for line in curves if len(xs(line)) > 2]
        chosen = [(line.get_marker(), str(line.get_linestyle()), line.is_dashed()) for line in curves]
        assert len(set(chosen)) == len(chosen), name
        for line in (line for line in axes.get_lines() if line.get_marker() not in ("None", "", None, "|", "_")):
            radius = 0.4 * line.get_markersize() * figure.dpi / 72
            for x, y in line.get_transform().transform(np.column_stack(line.get_data())):
                hidden = [said for said, box in boxes if clear_of(box, x, y) < radius]
                assert not hidden, f"{name}: a marker lies on {hidden}"
