"""Pictures by matplotlib as SVG whose colours are those of the page around them: light, dark or printed.

Colours are placeholders that become CSS variables; texts stay texts, in the page's font. matplotlib is used without
pyplot and so without state of its own, but for two settings of the SVG writer that a lock guards.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

MAX_POINTS = 500
"""Points of a line; more than one for each pixel shows nothing."""

SIZE = (4.3, 2.35)
"""Inches of 72 units: small enough that the texts of a picture as wide as a phone can still be read."""

TEXT = 10.0
"""Size of texts in the same units."""

# What is written into the SVG, and what stands there in the end.
COLOURS = {
    "ink": "#0a0b01",
    "grid": "#0a0b02",
    "main": "#0a0b03",
    "second": "#0a0b04",
    "third": "#0a0b05",
    "fourth": "#0a0b06",
    "faint": "#0a0b07",
    "warn": "#0a0b08",
    "card": "#0a0b09",
}
SERIES = ("second", "third", "fourth", "main")
"""Colours of several lines of one kind, in turn."""

_LOCK = threading.Lock()
_ID = re.compile(r' id="[a-z0-9.]+_[0-9]+"', re.IGNORECASE)
_FONT = re.compile(r"font-family: [^;]*; ?")
_HEAD = re.compile(r"^.*?<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", re.DOTALL)


class Chart:
    """One picture with one pair of axes; `name` is unique on its page, `label` says what it shows to who cannot see it.

    `axes` are matplotlib's, with the page's colours by `colour`.
    """

    def __init__(self, name: str, label: str) -> None:
        self._name = name
        self._label = label
        self._figure = Figure(figsize=SIZE, layout="constrained")
        self._figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # type: ignore[union-attr, call-arg]
        self.axes: Any = self._figure.subplots()
        self._style()

    def colour(self, name: str) -> str:
        """What to give to matplotlib for one of `COLOURS`."""
        return COLOURS[name]

    def line(self, x: Sequence[float], y: Sequence[float], colour: str, **options: Any) -> None:
        """A line through the points, thinned to `MAX_POINTS`."""
        x, y = thinned(x, y)
        self.axes.plot(x, y, color=COLOURS[colour], **({"linewidth": 1.6, "solid_capstyle": "round"} | options))

    def dots(self, x: Sequence[float], y: Sequence[float], colour: str, size: float = 5.5) -> None:
        """A mark at each point; the last ones where there are many."""
        x, y = x[-MAX_POINTS:], y[-MAX_POINTS:]
        style = {"markersize": size, "markeredgecolor": COLOURS["card"], "markeredgewidth": 0.8, "zorder": 3}
        self.axes.plot(x, y, "o", color=COLOURS[colour], **style)

    def level(self, y: float, colour: str) -> None:
        """A dashed line across at a value."""
        self.axes.axhline(y, color=COLOURS[colour], linewidth=1.2, dashes=(3, 2.5))

    def engineering(self, unit: str = "") -> None:
        """Values of the vertical axis as 10 k, 2.5 M."""
        self.axes.yaxis.set_major_formatter(EngFormatter(unit=unit, sep="\N{NARROW NO-BREAK SPACE}" if unit else ""))

    def svg(self) -> str:
        """The picture as an `<svg>` element; the same for the same content."""
        stream = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        with _LOCK, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self._name}):
            self._figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
        return _themed(stream.getvalue(), self._label)

    def _style(self) -> None:
        axes = self.axes
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(COLOURS["grid"])
        axes.tick_params(length=0, labelsize=TEXT, labelcolor=COLOURS["ink"], pad=5)
        axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.015, y=0.08)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def thinned(x: Sequence[float], y: Sequence[float], most: int = MAX_POINTS) -> tuple[Sequence[float], Sequence[float]]:
    """At most so many points, each the mean of its neighbours at the place of the last of them."""
    size = -(-len(x) // most)
    if size <= 1:
        return x, y
    groups = [slice(start, start + size) for start in range(0, len(x), size)]
    return [x[group][-1] for group in groups], [sum(y[group]) / len(y[group]) for group in groups]


def _themed(svg: str, label: str) -> str:
    """Without what belongs to a file of its own, with CSS variables for colours."""
    shape = _HEAD.match(svg)
    assert shape is not None, "matplotlib writes another head of its SVG now"
    body = _FONT.sub("", _ID.sub("", svg[shape.end() :]))
    for name, placeholder in COLOURS.items():
        body = body.replace(placeholder, f"var(--{name})")
    return f'<svg viewBox="{shape[1]}" role="img" aria-label="{escape(label)}">{body.strip()}'
