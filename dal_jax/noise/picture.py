"""Draws a transition matrix."""

import math
import os
import warnings
from collections.abc import Sequence

import numpy as np

from dal_jax.files import write_atomically
from dal_jax.noise.record import NoiseRecord

# With more classes than this, names and shares would be too small to read.
_MOST_NAMES = 100
_MOST_NUMBERS = 20
_LONGEST_NAME = 30


def title(record: NoiseRecord) -> str:
    """Returns the picture's title: the kind, the realised and the nominal rate.

    Args:
      record: one with known clean labels.

    Returns:
      One line.

    Example:
      >>> labels, clean = np.array([0, 1]), np.array([0, 0])
      >>> title(NoiseRecord.count(labels, clean, np.arange(2), num_classes=2,
      ...                         nominal_rate=0.4, kind="symmetric", options={}))
      'symmetric noise: 50.0 % of the labels are wrong (nominal rate 40 %)'
    """
    line = f"{record.kind} noise: {100 * record.realised_rate:.1f} % of the labels are"
    nominal = record.nominal_rate
    known = "" if math.isnan(nominal) else f" (nominal rate {100 * nominal:g} %)"
    return f"{line} wrong{known}"


def _label(name: str) -> str:
    short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    # matplotlib would read text between two dollar signs as mathematics.
    return short.replace("$", r"\$")


def save_picture(
    record: NoiseRecord, path: str | os.PathLike[str], class_names: Sequence[str]
) -> None:
    """Draws the counted transition matrix.

    Args:
      record: one with known clean labels and a matrix.
      path: of the ``.png``, which is written whole or not at all.
      class_names: ``[num_classes]``, along both axes.
    """
    # Without pyplot there is no global state, and no display is needed.
    from matplotlib.figure import Figure

    num_classes, matrix = record.num_classes, record.transition_matrix
    assert matrix is not None
    side = min(4 + 0.35 * num_classes, 20)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    axes.set_title(title(record))
    axes.set_xlabel("noisy label")
    axes.set_ylabel("clean label")
    if num_classes <= _MOST_NAMES:
        size = 10 if num_classes <= _MOST_NUMBERS else 6
        names = [_label(name) for name in class_names]
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=size)
        axes.set_yticks(range(num_classes), names, fontsize=size)
    if num_classes <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(matrix):
            if share > 0:
                color = "white" if share > 0.5 else "black"
                text = f"{share:.2f}".lstrip("0")
                axes.text(column, row, text, ha="center", va="center", color=color)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the clean class")
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes, without a warning.
        warnings.simplefilter("ignore", UserWarning)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100))
