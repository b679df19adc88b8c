"""Losses over the steps of several runs as one SVG, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 420, 260, 54, 44, 30
TRAIN, HELD_OUT, GRID, INK = "#8fb3d9", "#c0392b", "#dddddd", "#333333"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One run: (step, loss) of every training step and of every evaluation; losses in nats per token."""

    title: str
    train: Points
    held_out: Points


def losses(panels: Sequence[Panel]) -> str:
    """An SVG document with one panel per run."""
    width = len(panels) * (LEFT + WIDTH + GAP)
    height = TOP + HEIGHT + 44
    body = "".join(_panel(panel, LEFT + i * (LEFT + WIDTH + GAP)) for i, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}"><rect width="100%" height="100%" fill="white"/>'
        f"{body}</svg>\n"
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    spacing = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(spacing))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= spacing * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _panel(panel: Panel, x0: int) -> str:
    points = [*panel.train, *panel.held_out]
    right = max([step for step, _ in points], default=1) or 1
    values = [loss for _, loss in points] or [0.0]
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3

    def place(step: float, loss: float) -> tuple[float, float]:
        return x0 + WIDTH * step / right, TOP + HEIGHT * (high - loss) / (high - low)

    parts = [f'<text x="{x0}" y="20" font-weight="bold">{escape(panel.title)}</text>']
    for value in ticks(low, high):
        _, y = place(0, value)
        parts.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + WIDTH}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(0, right):
        x, _ = place(value, low)
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{x0 + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">step</text>')
    parts.append(_line([place(*point) for point in panel.train], TRAIN, 1.2))
    held_out = [place(*point) for point in panel.held_out]
    parts.append(_line(held_out, HELD_OUT, 2))
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{HELD_OUT}"/>' for x, y in held_out]
    parts.append(f'<text x="{x0 + WIDTH}" y="20" text-anchor="end" fill="{TRAIN}">training step</text>')
    parts.append(f'<text x="{x0 + WIDTH}" y="36" text-anchor="end" fill="{HELD_OUT}">held out</text>')
    return "".join(parts)


def _line(points: Points, colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
