"""The loss over the steps as one self-contained SVG picture, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.metrics import Record

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 32
MAX_POINTS = 600  # more than one per pixel shows nothing
TRAIN, HELD_OUT, GREY = "#3b82f6", "#f97316", "#808080"

Point = tuple[float, float]


def loss_plot(records: Sequence[Record]) -> str | None:
    """Training loss as a line, held-out loss as a line with dots; None for fewer than two steps."""
    train = _thinned([(record["step"], record["loss"]) for record in records if record.get("loss") is not None])
    held_out = [(record["step"], record["evalLoss"]) for record in records if record.get("evalLoss") is not None]
    if len(train) < 2:
        return None
    low, high = (pick(loss for _, loss in [*train, *held_out]) for pick in (min, max))
    scale = _Scale(max(step for step, _ in train), low, high)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{HELD_OUT}"/>' for x, y in map(scale, held_out))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{GREY}">\n'
        f"<title>Loss over optimizer steps</title>\n"
        f"{_axes(scale)}\n{_line(map(scale, train), TRAIN)}\n{_line(map(scale, held_out), HELD_OUT)}\n{dots}\n"
        f'<text x="{LEFT}" y="18" fill="{TRAIN}">training loss</text>\n'
        + (f'<text x="{LEFT + 110}" y="18" fill="{HELD_OUT}">held-out loss</text>\n' if held_out else "")
        + "</svg>\n"
    )


class _Scale:
    """From a step and a loss to pixels; steps begin at 0."""

    def __init__(self, last: float, low: float, high: float) -> None:
        self.last, self.low, self.high = last, low, high if high > low else low + 1.0

    def __call__(self, point: Point) -> Point:
        step, loss = point
        x = LEFT + step / self.last * (WIDTH - LEFT - RIGHT)
        y = TOP + (self.high - loss) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)
        return x, y


def _axes(scale: _Scale) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    grid = []
    for part in range(5):
        loss = scale.low + part / 4 * (scale.high - scale.low)
        _, y = scale((0, loss))
        grid.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}" stroke-opacity="0.25"/>')
        grid.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:.3g}</text>')
    grid.append(f'<text x="{LEFT}" y="{bottom + 20}">0</text>')
    grid.append(f'<text x="{right}" y="{bottom + 20}" text-anchor="end">step {scale.last:g}</text>')
    return "\n".join(grid)


def _line(points: map[Point], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _thinned(points: list[Point]) -> list[Point]:
    """At most `MAX_POINTS` points, each the mean of its neighbours."""
    size = -(-len(points) // MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else []
    means = [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
    return means or points
