"""Texts of `params.yaml` as HTML, and numbers and pictures as a page shows them."""

from __future__ import annotations

import base64
import io

import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from pipeline.config import EvaluationAttack
from pipeline.reporting.latex import rendered
from pipeline.reporting.layout import NORM_SYMBOLS, radius
from pipeline.reporting.markdown import math_html

PICTURE_SIZE = 96
"""Larger images are scaled down to this many pixels: a report must not weigh what its data set does."""
MAP_SIZE = 16
"""Maps are smooth: more pixels would show nothing more."""


def html(source: str) -> Markup:
    """HTML for a text: `$math$`, `_{...}` and `^{...}` as far as HTML has it, backquotes as code, all else escaped.

    >>> html("AT ($\\\\ell_2$) < `at`")
    Markup('AT (\N{SCRIPT SMALL L}<sub>2</sub>) &lt; <code>at</code>')
    """
    return Markup(
        rendered(source, escape, lambda math: math_html(str(escape(math))), lambda code: f"<code>{escape(code)}</code>")
    )


def plain(source: str) -> str:
    """The same text without tags, for charts and the descriptions of pictures."""
    return html(source).striptags()


def describe(attack: EvaluationAttack) -> str:
    """An attack in a few words: kind, effort, norm and radius."""
    norm = NORM_SYMBOLS[attack.norm]
    ball = rf"$\ell_{norm}$ $\epsilon = {radius(attack.epsilon)}$"
    return ", ".join(filter(None, [attack.label or attack.name, attack.effort(), ball]))


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> [duration(seconds) for seconds in (3.14, 75, 7260)]
    ['3.1 s', '1 min 15 s', '2 h 01 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(pixels: Tensor) -> str:
    """An image, (channels, height, width) uint8 with one or three channels, as the address of a PNG."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if max(image.size) > PICTURE_SIZE:
        image = image.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    return _png(image)


def heat(strengths: Tensor) -> str:
    """A map, (height, width) uint8, as the address of a PNG to lay over an image: the stronger, the more opaque."""
    from matplotlib import colormaps

    image = Image.fromarray(strengths.numpy())
    if max(image.size) > MAP_SIZE:
        image = image.resize((MAP_SIZE, MAP_SIZE), Image.Resampling.BILINEAR)
    share = np.asarray(image, dtype=np.float32) / 255
    coloured = colormaps["turbo"](share)
    coloured[..., 3] = 0.1 + 0.6 * share
    return _png(Image.fromarray((255 * coloured).round().astype(np.uint8)))


def _png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue())
