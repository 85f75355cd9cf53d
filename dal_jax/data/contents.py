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


def places_of(index: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where a source has examples, by their original indices.

    Args:
      index: integers ``[N]``, of the source.
      wanted: integers ``[M]``.

    Returns:
      Places ``[M]`` in the source, and whether each is the wanted example's.

    Example:
      >>> places_of(np.array([7, 3, 5]), np.array([3, 4, 7]))
      (array([1, 2, 0]), array([ True, False,  True]))
    """
    order = np.argsort(index)
    found = np.searchsorted(index, wanted, sorter=order)
    places = order[np.minimum(found, len(order) - 1)]
    return places, index[places] == wanted


def _image(images: EncodedImages, position: int) -> np.ndarray | None:
    try:
        encoded = images.read(np.array([position]))[0]
        return decode(encoded, images.channels, None)
    except (UnreadableImage, OSError):
        return None
