"""Instance-dependent noise: the image decides which wrong label it gets.

Part-dependent label noise of Xia et al., 2020 (arXiv 2006.07836), in the form that most
published code uses: for each true class, a random linear classifier decides which wrong
label an image gets.
"""

from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import numpy as np

from dal_jax.errors import InputError, unknown_name
from dal_jax.noise.checks import check_index, check_labels, check_rate, check_seed
from dal_jax.noise.transition import uniforms
from dal_jax.seeds import numpy_rng

PIXEL_SCALINGS = ("raw", "unit", "standardized")
RATE_STD = 0.1
# Pixels in flight at a time; with their float64 copies about 150 MB.
_CHUNK_PIXELS = 2**23


def instance_dependent(
    images: Any,
    labels: np.ndarray,
    num_classes: int,
    rate: float,
    seed: int,
    *,
    pixel_scaling: str = "standardized",
    index: np.ndarray | None = None,
) -> np.ndarray:
    r"""Flips labels to classes that a random classifier picks from the image.

    Example :math:`n` with pixels :math:`x_n` and label :math:`y` has its own flip rate
    :math:`q_n`, drawn from a normal distribution with mean ``rate`` and standard
    deviation 0.1, truncated to [0, 1]. For each class one matrix :math:`W_y` of
    standard normal numbers, of shape (pixels, num_classes), is drawn. Then

    .. math::
       a = x_n^\top W_y, \quad a_y = -\infty, \qquad
       P(\tilde y = j) = q_n \, \mathrm{softmax}(a)_j + (1 - q_n) \, [j = y]

    With thousands of pixels the softmax is almost an argmax on any scale.
    ``pixel_scaling`` decides how much the images have in common. Pixels from 0 to 255
    (``raw``) or 0 to 1 (``unit``) are never negative, so images resemble their mean and
    most of a class goes to one wrong label. ``standardized`` pixels (mean 0 and
    standard deviation 1 in each channel of ``images``) have little in common, and a
    class spreads over many wrong labels.

    The same holds of any other numbers, e.g. features ``[N, D]``, which are
    ``standardized`` along their last axis, or taken as they are (``raw``).

    Args:
      images: uint8 ``[N, H, W, C]``, or numbers ``[N, ...]``, or a source of such
        (``len``, item).
      labels: ``[N]`` integers in ``[0, num_classes)``.
      num_classes: at least 2.
      rate: mean of the distribution of flip rates before truncation, in [0, 1].
        Truncation moves the mean away from the ends: a rate of 0 gives 0.08, a rate of
        0.2 gives 0.206.
      seed: of the noise, at least 0.
      pixel_scaling: ``raw``, ``unit`` or ``standardized``.
      index: ``[N]``, each example's original index; default: its position.

    Returns:
      ``[N]`` int32 noisy labels.

    Raises:
      InputError: an argument out of range, an unknown scaling or one that does not
        fit, inputs that are no numbers or not as many as labels.

    Example:
      >>> images = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 1), np.uint8)
      >>> clean = np.arange(500) % 5
      >>> noisy = instance_dependent(images, clean, 5, rate=0.4, seed=0)
      >>> bool(abs((noisy != clean).mean() - 0.4) < 0.1)
      True
    """
    if pixel_scaling not in PIXEL_SCALINGS:
        raise unknown_name("pixel scaling", pixel_scaling, PIXEL_SCALINGS)
    labels = check_labels(labels, num_classes)
    index = check_index(index, len(labels))
    if len(images) != len(labels):
        raise InputError(
            f"{len(images)} images and {len(labels)} labels: expected as many of each; "
            "check which belong together"
        )
    offset, scale = _scaling(images, pixel_scaling)
    flip_rates = truncated_normal(check_rate(rate), uniforms(seed, "rate", index))
    draws = uniforms(seed, "instance", index)
    noisy = labels.copy()
    for label in np.unique(labels):
        rng = numpy_rng(check_seed(seed), f"noise/projection/{label}")
        projection = rng.standard_normal((_num_pixels(images), num_classes))
        for chunk in _chunks(images, np.flatnonzero(labels == label)):
            pixels = (_gather(images, chunk) - offset) / scale
            scores = pixels.reshape(len(chunk), -1) @ projection
            scores[:, label] = -np.inf
            wrong = flip_rates[chunk, None] * _softmax(scores)
            wrong[:, label] = 1 - flip_rates[chunk]
            noisy[chunk] = _draw(wrong, draws[chunk])
    return noisy


def truncated_normal(mean: float, quantiles: np.ndarray) -> np.ndarray:
    """Returns quantiles of a normal of standard deviation 0.1 truncated to [0, 1].

    Args:
      mean: of the distribution before it is truncated, in [0, 1].
      quantiles: ``[N]`` in [0, 1).

    Returns:
      ``[N]`` float64 in [0, 1].

    Example:
      >>> float(truncated_normal(0.4, np.array([0.5]))[0].round(4))
      0.4
    """
    normal = NormalDist(mean, RATE_STD)
    low, high = normal.cdf(0), normal.cdf(1)
    # The inverse is defined only strictly between 0 and 1; rounding may give 0 or 1.
    smallest, largest = np.finfo(np.float64).tiny, np.nextafter(1, 0)
    inside = np.clip(low + (high - low) * quantiles, smallest, largest)
    return np.clip([normal.inv_cdf(q) for q in inside.tolist()], 0, 1)


def _num_pixels(images: Any) -> int:
    return int(np.prod(np.shape(images[0])))


def _chunks(images: Any, positions: np.ndarray | None = None) -> Iterator[np.ndarray]:
    positions = np.arange(len(images)) if positions is None else positions
    size = max(1, _CHUNK_PIXELS // _num_pixels(images))
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def _gather(images: Any, positions: np.ndarray) -> np.ndarray:
    if isinstance(images, np.ndarray):
        batch = images[positions]
    else:
        batch = np.stack([images[int(position)] for position in positions])
    if batch.dtype.kind not in "fiub" or batch.ndim < 2:
        raise InputError(
            "noise kind instance needs images or other numbers, got shape "
            f"{batch.shape[1:]} and dtype {batch.dtype}; convert them"
        )
    return batch


def _scaling(images: Any, pixel_scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns what to subtract from the inputs and what to divide them by."""
    first = _gather(images, np.arange(1))
    is_image = first.dtype == np.uint8 and first.ndim == 4
    if pixel_scaling == "unit" and not is_image:
        raise InputError(
            f"noise.pixel_scaling=unit is for uint8 images, got shape {first.shape[1:]}"
            f" and dtype {first.dtype}: expected raw or standardized; set one of them"
        )
    if pixel_scaling != "standardized":
        return np.zeros(1), np.array([1.0 if pixel_scaling == "raw" else 255.0])
    batches = (_gather(images, chunk) for chunk in _chunks(images))
    mean, std = _of_pixels(batches) if is_image else _of_numbers(batches)
    return mean, np.where(std > 0, std, 1.0)


def _of_pixels(batches: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    # Integer sums are exact, so mean and std do not depend on the order.
    levels = np.arange(256)
    counts: Any = 0
    for batch in batches:
        counts = counts + np.stack(
            [np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(batch, -1, 0)]
        )
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    return mean, np.sqrt(np.sum(shares * (levels - mean[:, None]) ** 2, axis=1))


def _of_numbers(batches: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    count, total, squares, shift = 0, 0.0, 0.0, None
    for batch in batches:
        rows = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
        # Around the first rows' mean, the square of the mean is small.
        shift = rows.mean(axis=0) if shift is None else shift
        count += len(rows)
        total = total + (rows - shift).sum(axis=0)
        squares = squares + np.square(rows - shift).sum(axis=0)
    mean = np.asarray(total / count)
    return shift + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _draw(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Returns one column for each row, drawn by inverting the cumulative sum."""
    cumulative = np.cumsum(probabilities, axis=-1)
    cumulative /= cumulative[:, -1:]
    return (cumulative <= uniform[:, None]).sum(axis=-1)
