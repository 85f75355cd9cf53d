"""Mean and standard deviation of a training set's pixels; its classes, counted."""

from collections.abc import Sequence

import numpy as np

from dal_jax.data.split import InputSource

_SAMPLE = 2_000
_MOST_NAMED = 10


def image_statistics(
    images: np.ndarray | InputSource,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns each channel's mean and standard deviation, of pixels in [0, 1].

    Args:
      images: uint8 ``[N, H, W, C]``, or a source, of which 2,000 evenly spaced images
        are decoded.

    Returns:
      ``(mean, std)``; the deviation of a constant channel is given as 1.

    Example:
      >>> image_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
      ((0.5,), (0.5,))
    """
    if not isinstance(images, np.ndarray):
        chosen = np.unique(np.linspace(0, len(images) - 1, _SAMPLE).astype(int))
        images = np.stack([images[int(i)] for i in chosen])
    # Counting values is exact whatever the number of pixels.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256)
        share = share / share.sum()
        mean.append(float(share @ values))
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)) or 1.0)
    return tuple(mean), tuple(std)


def class_counts(labels: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns a line on how many examples each class has, short for many classes.

    Args:
      labels: integers of any shape; those below 0 are none.
      class_names: one a class.

    Example:
      >>> class_counts(np.array([0, 1, 1]), ("ant", "bee"))
      'training examples a class: ant 1, bee 2'
    """
    counts = np.bincount(labels[labels >= 0].ravel(), minlength=len(class_names))
    if len(counts) <= _MOST_NAMED:
        named = zip(class_names, counts, strict=True)
        each = ", ".join(f"{name} {count:,}" for name, count in named)
    else:
        fewest, most = int(counts.argmin()), int(counts.argmax())
        each = (
            f"{len(counts)} classes of {counts[fewest]:,} ({class_names[fewest]}) to "
            f"{counts[most]:,} ({class_names[most]}), median {np.median(counts):,.0f}"
        )
        empty = int((counts == 0).sum())
        each += f"; {empty} have none" if empty else ""
    return f"training examples a class: {each}"
