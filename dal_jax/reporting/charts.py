"""Charts as numbers that a template draws: SVG for lines, HTML for all text.

The lines live in a box of ``WIDTH`` by ``HEIGHT`` that is stretched to any size; text
stays outside of it, so that it is readable on a phone and on paper.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT = 1000, 400
# More points of a line than this are not to be told apart.
_MOST_POINTS = 600
# Rows of the table that says the same in numbers.
_MOST_ROWS = 12


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      name: in the legend.
      values: floating ``[T]``, nan where there is none.
      style: of the template's classes, e.g. ``"right"``.
    """

    name: str
    values: np.ndarray
    style: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over epochs.

    Attributes:
      title: what is shown.
      lines: those to draw.
      epochs: floating ``[T]``.
      last_epoch: where the axis ends.
      percent: whether values are shares.
      marker: ``(epoch, text)`` of a moment to mark, or ``None``.
      note: what else to say, or empty.
    """

    title: str
    lines: Sequence[Line]
    epochs: np.ndarray
    last_epoch: float
    percent: bool = True
    marker: tuple[float, str] | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How the values of groups are spread over [0, 1].

    Attributes:
      title: of when or what.
      groups: ``(name, counts [bins], style)``.
    """

    title: str
    groups: Sequence[tuple[str, np.ndarray, str]]


def lines(chart: Chart) -> dict[str, Any]:
    """Returns what the template needs to draw a chart."""
    drawn = [line for line in chart.lines if np.isfinite(line.values).any()]
    low, high = _range(np.concatenate([line.values for line in drawn]), chart.percent)
    start = min(float(chart.epochs[0]), 1.0)
    end = max(chart.last_epoch, start + 1e-9)

    def across(epoch: Any) -> Any:
        return (epoch - start) / (end - start)

    def up(value: Any) -> Any:
        return (value - low) / (high - low)

    marker = None
    if chart.marker is not None and start <= chart.marker[0] <= end:
        place = 100 * across(chart.marker[0])
        # The text stays inside the chart.
        marker = {"place": round(place, 2), "text": chart.marker[1], "flip": place > 70}
    return {
        "title": chart.title,
        "note": chart.note,
        "label": _spoken(chart, drawn),
        "x": [(round(100 * across(t), 2), f"{t:g}") for t in _epochs(start, end)],
        "y": [
            (round(100 * up(t), 2), _text(t, chart.percent)) for t in ticks(low, high)
        ],
        "marker": marker,
        "lines": [
            {
                "name": line.name,
                "style": line.style,
                "path": path(across(chart.epochs), up(line.values)),
                "last": _text(_last(line.values), chart.percent, fine=True),
            }
            for line in drawn
        ],
        "rows": _rows(chart, drawn),
    }


def histogram(spread: Histogram) -> dict[str, Any]:
    """Returns what the template needs to draw a histogram: each group adds up to 1."""
    shares = [
        (name, counts / counts.sum(), style)
        for name, counts, style in spread.groups
        if counts.sum()
    ]
    most = max(float(share.max()) for _, share, _ in shares)
    high = ticks(0, most)[-1]
    high = high if high >= most else most * 1.05
    return {
        "title": spread.title,
        "y": [(round(100 * t / high, 2), _text(t, True)) for t in ticks(0, high)],
        "groups": [
            {"name": name, "style": style, "path": _steps(share / high)}
            for name, share, style in shares
        ],
        "label": spread.title
        + "".join(
            f". {name}: {_text(share[0], True, fine=True)} in the lowest of "
            f"{len(share)} bins, {_text(share[-1], True, fine=True)} in the highest"
            for name, share, _ in shares
        ),
    }


def path(x: np.ndarray, y: np.ndarray) -> str:
    """Returns an SVG path through points of [0, 1] x [0, 1], broken where y is nan.

    Example:
      >>> path(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, np.nan]))
      'M0,400L500,0'
    """
    chosen = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).astype(int))
    parts, pen = [], "M"
    for i in chosen:
        if not math.isfinite(y[i]):
            pen = "M"
            continue
        up = min(max(1 - float(y[i]), 0.0), 1.0)
        parts.append(f"{pen}{_short(WIDTH * float(x[i]))},{_short(HEIGHT * up)}")
        pen = "L"
    # A single point is drawn as a dot, by the round end of a line without length.
    return "".join(parts) + ("h0" if len(parts) == 1 else "")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers within a range.

    Example:
      >>> ticks(0.0, 1.0), ticks(0.3, 2.2)
      ([0.0, 0.25, 0.5, 0.75, 1.0], [0.5, 1.0, 1.5, 2.0])
    """
    span = high - low
    unit = 10.0 ** math.floor(math.log10(span / most))
    factor = next(f for f in (1, 2, 2.5, 5, 10, 20) if span / (f * unit) <= most - 1)
    step = factor * unit
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]


def _range(values: np.ndarray, percent: bool) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if percent:
        low, high = math.floor(5 * low + 1e-9) / 5, math.ceil(5 * high - 1e-9) / 5
        return (low, high) if high > low else (max(low - 0.2, 0.0), min(low + 0.2, 1.0))
    low = min(low, 0.0)
    return low, high + 0.05 * (high - low) if high > low else low + 1.0


def _epochs(start: float, end: float) -> list[float]:
    whole = [t for t in ticks(start, end, 6) if t == int(t)] if end - start >= 1 else []
    # The first and the last epoch are there, and none that would touch them.
    room = 0.08 * (end - start)
    inner = [t for t in whole if start + room < t < end - room]
    return [start, *inner, end] if end - start >= 1 else [start]


def _steps(heights: np.ndarray) -> str:
    edges = np.linspace(0, WIDTH, len(heights) + 1)
    parts = [f"M0,{HEIGHT}"]
    for height, right in zip(heights, edges[1:], strict=True):
        parts.append(f"V{_short(HEIGHT * (1 - float(height)))}H{_short(float(right))}")
    return "".join(parts) + f"V{HEIGHT}"


def _rows(chart: Chart, drawn: Sequence[Line]) -> list[list[str]]:
    """Returns some epochs in numbers: the same for those who cannot see the lines."""
    chosen = np.unique(np.linspace(0, len(chart.epochs) - 1, _MOST_ROWS).astype(int))
    return [
        [
            f"{chart.epochs[i]:g}",
            *(_text(float(line.values[i]), chart.percent, fine=True) for line in drawn),
        ]
        for i in chosen
    ]


def _spoken(chart: Chart, drawn: Sequence[Line]) -> str:
    first, last = chart.epochs[0], chart.epochs[-1]
    parts = [f"{chart.title}, line chart of epochs {first:g} to {last:g}"]
    for line in drawn:
        known = line.values[np.isfinite(line.values)]
        begin, end = (_text(x, chart.percent, fine=True) for x in (known[0], known[-1]))
        best = _text(known.max(), chart.percent, fine=True)
        parts.append(f"{line.name}: {begin} at first, {end} at last, {best} at most")
    if chart.marker is not None:
        parts.append(f"{chart.marker[1]} at epoch {chart.marker[0]:.1f}")
    return ". ".join(parts)


def _last(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)][-1])


def _text(value: float, percent: bool, fine: bool = False) -> str:
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{100 * value:.1f} %" if fine else f"{round(100 * value, 6):g} %"
    return f"{value:.3g}"


def _short(number: float) -> str:
    return f"{round(number, 1):g}"
