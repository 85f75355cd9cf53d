"""Single examples as they are in the source, for a person to look at."""

import numpy as np

from dal_jax.data.decode import UnreadableImage, decode
from dal_jax.data.images import EncodedImages
from dal_jax.data.split import Split, Subset


def contents_of(split: Split, positions: np.ndarray) -> list[np.ndarray | None]:
    """Returns some inputs; images keep their size, unreadable ones are ``None``.

    Args:
      split: its images may be files that are not decoded yet.
      positions: integers ``[M]``.

    Example:
      >>> split = Split(np.zeros((4, 3)), np.zeros(4, int))
      >>> [each.shape for each in contents_of(split, np.array([0, 2]))]
      [(3,), (3,)]
    """
    source, positions = split.inputs, np.asarray(positions)
    if isinstance(source, Subset):
        source, positions = source.source, source.positions[positions]
    if not isinstance(source, EncodedImages):
        return [np.asarray(source[int(position)]) for position in positions]
    return [_image(source, int(position)) for position in positions]


def _image(images: EncodedImages, position: int) -> np.ndarray | None:
    try:
        encoded = images.read(np.array([position]))[0]
        return decode(encoded, images.channels, None)
    except (UnreadableImage, OSError):
        return None
