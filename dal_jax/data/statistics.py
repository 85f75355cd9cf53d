"""Mean and standard deviation of a training set's pixels."""

import numpy as np

from dal_jax.data.split import InputSource

_SAMPLE = 2_000


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
