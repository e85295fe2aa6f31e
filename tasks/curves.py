"""Loss curves as small SVG pictures, drawn by hand: a page of many, or a card, cannot wait for a plotting library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Curve = Sequence[tuple[int, float]]
_TRAIN, _VAL, _LINE = "#8aa0ad", "#c9931a", "#8b8f98"  # to be told apart on white and on black
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A dashed line across the picture, such as what the bigram reaches."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Size in pixels, and colours: by default those of the text around, on no ground of its own."""

    width: int = 280
    height: int = 150
    ink: str = "currentColor"
    paper: str | None = None


def loss_svg(train: Curve, val: Curve, levels: Sequence[Level] = (), frame: Frame | None = None) -> str:
    """Train and val loss by step. Values that are no numbers are left out; without any there is an empty frame."""
    frame = frame or Frame()
    train, val = ([(step, value) for step, value in curve if math.isfinite(value)] for curve in (train, val))
    values = [value for _, value in (*train, *val)] + [level.value for level in levels]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.5
    low, high = low - room, high + room
    last = max([step for step, _ in (*train, *val)], default=1) or 1
    across, down = frame.width - _LEFT - _RIGHT, frame.height - _TOP - _BOTTOM

    def place(step: float, value: float) -> tuple[float, float]:
        return _LEFT + across * step / last, _TOP + down * (high - value) / (high - low)

    def line(curve: Curve, colour: str, width: float) -> str:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        stroke = f'stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"'
        return f'<polyline points="{points}" fill="none" {stroke}/>' if points else ""

    def text(x: float, y: float, words: str, anchor: str) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {frame.height}" '
        f'width="{frame.width}" height="{frame.height}" role="img" aria-label="loss by step" '
        f'font-family="system-ui, sans-serif" font-size="10" fill="{frame.ink}">',
        f'<rect width="100%" height="100%" fill="{frame.paper}"/>' if frame.paper else "",
    ]
    for value in _ticks(low, high):
        _, y = place(0, value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{across}" stroke="{frame.ink}" stroke-opacity=".13"/>')
        parts.append(text(_LEFT - 4, y + 3.5, f"{value:g}", "end"))
    for level in levels:
        _, y = place(0, level.value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{across}" stroke="{_LINE}" stroke-dasharray="4 3"/>')
        # On the left, where the curve is still far above it.
        parts.append(text(_LEFT + 4, y - 3, f"{level.name} {level.value:.3f}", "start"))
    parts += [line(train, _TRAIN, 1.2), line(val, _VAL, 2)]
    if val:
        x, y = place(*val[-1])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{_VAL}"/>')
    parts.append(text(_LEFT, frame.height - 4, "0", "start"))
    parts.append(text(frame.width - _RIGHT, frame.height - 4, f"{last:,} steps", "end"))
    return "".join(parts) + "</svg>"


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round values between the two."""
    raw = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
