"""The page of a run: one file that works offline, on any screen and on paper."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dal_jax.reporting import charts, figures
from dal_jax.reporting.charts import Chart, Histogram
from dal_jax.reporting.html import template

# Up to so many classes a matrix is a table that can be read; beyond, a picture.
_MOST_IN_TABLE = 20
# Of more classes than a picture has points, neighbours share one.
_MOST_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Remark:
    """What a person would remark, and what to do about it."""

    text: str
    advice: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """One of the few numbers at the top."""

    name: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph, and where it leads: ``(address, words)``."""

    text: str
    link: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command to copy, and a sentence before it."""

    text: str
    command: str


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts one below the other, on the same axis of epochs."""

    charts: Sequence[Chart]


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Histograms side by side."""

    histograms: Sequence[Histogram]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """How often a class is taken for another.

    Attributes:
      title: what is shown.
      caption: how to read it.
      shares: floating ``[K, K]``, rows add up to 1; nan where nothing is known.
      names: of the classes.
      rows: what a row is, e.g. ``"true"``.
      columns: what a column is, e.g. ``"given"``.
    """

    title: str
    caption: str
    shares: np.ndarray
    names: Sequence[str]
    rows: str
    columns: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
      title: what is shown.
      headings: of all columns.
      rows: of texts, or of numbers that stand on the right.
      folded: whether it is shown only when asked for.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An example that is predicted as another class than its label.

    Attributes:
      label: the class's name.
      predicted: likewise.
      probability: of the predicted class.
      name: a path, or an index.
      content: its input, as :func:`dal_jax.reporting.figures.shown` takes it.
    """

    label: str
    predicted: str
    probability: float
    name: str
    content: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """Examples as cards."""

    mistakes: Sequence[Mistake]


Block = Text | Command | Charts | Histograms | Matrix | Table | Mistakes


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      name: of its place on the page, a word.
      title: its heading.
      blocks: what it holds, in order.
    """

    name: str
    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page says.

    Attributes:
      title: of what, e.g. the run's directory.
      heading: the outcome in one line.
      facts: the few numbers at the top.
      remarks: what a person would remark.
      sections: all else.
    """

    title: str
    heading: str
    facts: Sequence[Fact]
    remarks: Sequence[Remark]
    sections: Sequence[Section]


def render(report: Report) -> str:
    """Returns the page as HTML that needs nothing outside itself."""
    return template("report.html").render(
        report=report,
        sections=[
            {
                "name": section.name,
                "title": section.title,
                "blocks": [_block(block) for block in section.blocks],
            }
            for section in report.sections
        ],
    )


def _block(block: Block) -> dict[str, Any]:
    match block:
        case Charts():
            content = [charts.lines(chart) for chart in block.charts]
        case Histograms():
            content = [charts.histogram(each) for each in block.histograms]
        case Matrix():
            content = _matrix(block)
        case Table():
            content = {
                "rows": [[_cell(value) for value in row] for row in block.rows],
                "block": block,
            }
        case Mistakes():
            content = [_card(mistake) for mistake in block.mistakes]
        case _:
            content = block
    return {"kind": type(block).__name__, "content": content}


def _matrix(matrix: Matrix) -> dict[str, Any]:
    shares = matrix.shares
    others = np.where(np.eye(len(shares), dtype=bool), np.nan, shares)
    most = float(np.nanmax(np.nan_to_num(others), initial=0.0))
    described: dict[str, Any] = {"block": matrix, "rows": None, "picture": None}
    if len(shares) <= _MOST_IN_TABLE:
        rows = enumerate(zip(matrix.names, shares.tolist(), strict=True))
        described["rows"] = [
            {
                "name": name,
                "cells": [
                    {
                        "text": _share(share),
                        "own": i == j,
                        "strength": round(np.nan_to_num(share) / max(most, 1e-9), 2),
                    }
                    for j, share in enumerate(row)
                ],
            }
            for i, (name, row) in rows
        ]
    else:
        described["picture"] = figures.pixel_map(_binned(others, _MOST_POINTS), most)
        described["size"] = len(shares)
        described["pairs"] = [
            {"row": matrix.names[i], "column": matrix.names[j], "share": _share(share)}
            for i, j, share in _largest(others, 10)
        ]
    return described


def _binned(matrix: np.ndarray, most: int) -> np.ndarray:
    """Returns a matrix of at most so many rows: the largest number of each square."""
    if len(matrix) <= most:
        return matrix
    starts = np.arange(most) * len(matrix) // most
    by_rows = np.maximum.reduceat(np.nan_to_num(matrix), starts, axis=0)
    return np.maximum.reduceat(by_rows, starts, axis=1)


def _largest(matrix: np.ndarray, count: int) -> list[tuple[int, int, float]]:
    flat = np.nan_to_num(matrix).ravel()
    count = min(count, len(flat))
    chosen = np.argpartition(-flat, count - 1)[:count]
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")]
    places = [divmod(int(i), len(matrix)) for i in chosen if flat[i] > 0]
    return [(i, j, float(matrix[i, j])) for i, j in places]


def _card(mistake: Mistake) -> dict[str, Any]:
    picture, numbers = figures.shown(mistake.content)
    return {
        "label": mistake.label,
        "predicted": mistake.predicted,
        "probability": _probability(mistake.probability),
        "name": mistake.name,
        "picture": picture,
        "numbers": numbers,
    }


def _cell(value: str | int | float) -> tuple[str, bool]:
    """Returns a cell's text, and whether it is a number: integers, and shares."""
    if isinstance(value, str):
        return value, False
    if isinstance(value, float):
        return ("–" if np.isnan(value) else f"{100 * value:.1f} %"), True
    return f"{value:,}", True


def _share(share: float) -> str:
    if np.isnan(share):
        return "–"
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 0.5 or percent == 0 else "<1"


def _probability(probability: float) -> str:
    return f"{probability:.3f}" if probability < 0.9995 else "over 0.999"
