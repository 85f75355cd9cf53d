"""Pictures of a comparison: arrays in, matplotlib figures out.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; each
method also has a line style and a marker of its own, so that a print in grey serves.
"""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dal_jax.analysis.comparison import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito without their yellow, which white paper swallows.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
_PANEL = (3.6, 3.0)
_COLUMNS = 3

# Of one method: epochs [E] and scores [repetitions, E].
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Map(NamedTuple):
    """A score over two swept fields.

    Attributes:
      title: what it is of.
      fields: the field from left to right, and the one from bottom to top.
      values: of both fields, in that order.
      scores: ``[values of the second, values of the first]``, nan where unknown.
      chosen: the places ``(first, second)`` that validation chose, if it was asked.
    """

    title: str
    fields: tuple[str, str]
    values: tuple[Sequence[Any], Sequence[Any]]
    scores: np.ndarray
    chosen: tuple[int, int] | None = None


def accuracy_over_epochs(panels: Mapping[str, Curves]) -> "Figure":
    """Returns a panel a noise: the mean of each method, and a band of the seeds' range.

    Example:
      >>> curve = (np.arange(1, 4), np.array([[0.5, 0.6, 0.7], [0.6, 0.7, 0.8]]))
      >>> len(accuracy_over_epochs({"symmetric-0.4": {"ce": curve}}).axes)
      1
    """
    figure, axes = _panels(list(panels))
    styles = _styles(panels.values())
    for axis, curves in zip(axes, panels.values(), strict=True):
        for method, (epochs, scores) in curves.items():
            style = {k: v for k, v in styles[method].items() if k != "marker"}
            axis.plot(epochs, scores.mean(axis=0), label=method, **style)
            low, high = scores.min(axis=0), scores.max(axis=0)
            axis.fill_between(epochs, low, high, color=style["color"], alpha=0.15, lw=0)
        axis.set_xlabel("epoch")
        axis.set_ylabel("test accuracy")
    return _with_legend(figure, axes)


def accuracy_by_rate(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]],
) -> "Figure":
    """Returns a panel a kind of noise: accuracy against its rate, with intervals.

    Example:
      >>> point = Estimate(0.9, 0.01, 0.89, 0.91, 3)
      >>> points = {"ce": [(0.2, point), (0.4, point)]}
      >>> len(accuracy_by_rate({"symmetric": points}).axes)
      1
    """
    figure, axes = _panels(list(panels))
    styles = _styles(panels.values())
    for axis, methods in zip(axes, panels.values(), strict=True):
        for method, points in methods.items():
            rates = [rate for rate, _ in points]
            means = [of.mean for _, of in points]
            errors = [[_side(of.mean - of.low) for _, of in points]]
            errors.append([_side(of.high - of.mean) for _, of in points])
            axis.errorbar(
                rates, means, errors, label=method, capsize=3, **styles[method]
            )
        axis.set_xlabel("noise rate asked for")
        axis.set_ylabel("test accuracy, last epoch")
    return _with_legend(figure, axes)


def memorized_against_corrected(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> "Figure":
    """Returns a panel a noise: what became of the wrong labels, a point a seed.

    Example:
      >>> shares = np.array([0.1, 0.2]), np.array([0.8, 0.7])
      >>> len(memorized_against_corrected({"symmetric-0.4": {"ce": shares}}).axes)
      1
    """
    figure, axes = _panels(list(panels))
    styles = _styles(panels.values())
    for axis, methods in zip(axes, panels.values(), strict=True):
        # All that is left beyond this line is impossible: shares add up to at most 1.
        axis.plot([0, 1], [1, 0], color="#999999", lw=0.8)
        for method, (memorized, corrected) in methods.items():
            style = {k: v for k, v in styles[method].items() if k != "linestyle"}
            axis.plot(memorized, corrected, linestyle="", label=method, **style)
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("wrong labels memorized")
        axis.set_ylabel("wrong labels corrected")
    return _with_legend(figure, axes)


def sensitivity(maps: Sequence[Map]) -> "Figure":
    """Returns a heat map of each: the best framed, what validation chose with a ring.

    Example:
      >>> scores = np.array([[0.8, 0.9], [0.7, 0.6]])
      >>> one = Map("dal", ("q_start", "q_end"), ((0.2, 0.4), (1.2, 1.5)), scores)
      >>> len(sensitivity([one]).axes)  # with its colour bar
      2
    """
    figure, axes = _panels([one.title for one in maps])
    for axis, one in zip(axes, maps, strict=True):
        image = axis.imshow(one.scores, origin="lower", cmap="cividis", aspect="auto")
        figure.colorbar(image, ax=axis, label="test accuracy, last epoch")
        for k, (field, values) in enumerate(zip(one.fields, one.values, strict=True)):
            ticks = axis.set_xticks if k == 0 else axis.set_yticks
            ticks(range(len(values)), [str(value) for value in values])
            (axis.set_xlabel if k == 0 else axis.set_ylabel)(field)
        _write_scores(axis, one)
    return figure


def save(figure: "Figure") -> dict[str, bytes]:
    """Returns a figure as files, by ending; the same figure gives the same bytes.

    Example:
      >>> from matplotlib.figure import Figure
      >>> files = save(Figure())
      >>> sorted(files), files[".png"][1:4]
      (['.png', '.svg'], b'PNG')
    """
    import matplotlib as mpl

    files = {}
    with mpl.rc_context({"svg.hashsalt": "dal_jax"}):
        for ending, metadata in (
            (".png", {"Software": None}),
            (".svg", {"Date": None}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending[1:], dpi=120, metadata=metadata)
            files[ending] = buffer.getvalue()
    return files


def _panels(titles: Sequence[str]) -> tuple["Figure", list["Axes"]]:
    # Without pyplot there is no global state and no display to look for.
    from matplotlib.figure import Figure

    columns = min(len(titles), _COLUMNS)
    rows = math.ceil(len(titles) / columns)
    size = (_PANEL[0] * columns + 0.4, _PANEL[1] * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, lw=0.6)
    return figure, axes


def _with_legend(figure: "Figure", axes: Sequence["Axes"]) -> "Figure":
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), 4),
        frameon=False,
        fontsize=9,
        handlelength=3.5,
    )
    return figure


def _styles(panels: Any) -> dict[str, dict[str, Any]]:
    """A colour, a line and a marker for each method, the same in all panels."""
    methods = dict.fromkeys(itertools.chain.from_iterable(panels))
    return {
        method: {
            "color": _COLORS[i % len(_COLORS)],
            # Where colours come again, they come with other lines and markers.
            "linestyle": _LINES[(i + i // len(_COLORS)) % len(_LINES)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "markersize": 5,
            "lw": 1.5,
        }
        for i, method in enumerate(methods)
    }


def _write_scores(axis: "Axes", one: Map) -> None:
    axis.grid(False)
    known = one.scores[np.isfinite(one.scores)]
    middle = (known.min() + known.max()) / 2 if len(known) else 0.0
    for (y, x), score in np.ndenumerate(one.scores):
        if np.isfinite(score):
            color = "white" if score < middle else "black"
            text = f"{score:.3f}".lstrip("0")
            axis.text(x, y, text, ha="center", va="center", color=color, fontsize=8)
    if len(known):
        y, x = np.unravel_index(np.nanargmax(one.scores), one.scores.shape)
        frame = {"marker": "s", "markersize": 26, "fillstyle": "none", "mew": 1.8}
        axis.plot(x, y, color="black", **frame)
    if one.chosen is not None:
        ring = {"marker": "o", "markersize": 30, "fillstyle": "none", "mew": 2.2}
        axis.plot(*one.chosen, color="#D55E00", **ring)


def _side(length: float) -> float:
    """The length of half an error bar: none where there is no interval."""
    return 0.0 if math.isnan(length) else max(length, 0.0)
