"""Class maps of asymmetric noise: for each class, the class it is mistaken for.

A class map is an integer array of length ``num_classes``; a class that maps to
itself is never flipped.
"""

import re
from collections.abc import Sequence

import numpy as np

from dal_jax.errors import InputError, unknown_name

# Superclass of each CIFAR-100 fine class, both in the data set's own order.
# fmt: off
CIFAR100_COARSE = np.array([
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11,
    6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5,
    5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17,
    10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13,
    16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
])
# fmt: on


def within_groups(groups: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the map to the next class of the same group, in a ring.

    Args:
      groups: ``[num_classes]`` integers, the group of each class.

    Returns:
      ``[num_classes]`` int64: the next class in ascending index that has the same
      group; the last of a group maps to its first, a group of one to itself.

    Example:
      >>> within_groups([0, 1, 0, 1, 1]).tolist()
      [2, 3, 0, 4, 1]
    """
    groups = np.asarray(groups)
    class_map = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        class_map[members] = np.roll(members, -1)
    return class_map


def blocks_of_five(num_classes: int) -> np.ndarray:
    """Returns the map to the next class within blocks of five consecutive indices.

    Several repositories call this CIFAR-100's asymmetric noise. Fine labels are in
    alphabetical order there, so it leaves the superclass for 94 of 100 classes.

    Args:
      num_classes: a multiple of five.

    Returns:
      ``[num_classes]`` int64.

    Raises:
      InputError: ``num_classes`` is not a multiple of five.

    Example:
      >>> blocks_of_five(10).tolist()
      [1, 2, 3, 4, 0, 6, 7, 8, 9, 5]
    """
    if num_classes < 5 or num_classes % 5:
        raise InputError(
            f"noise kind asymmetric_blocks needs a multiple of 5 classes, and there "
            f"are {num_classes}; use pair_flip, or asymmetric with a class map"
        )
    return within_groups(np.arange(num_classes) // 5)


def _from_pairs(num_classes: int, pairs: dict[int, int]) -> np.ndarray:
    class_map = np.arange(num_classes)
    class_map[list(pairs)] = list(pairs.values())
    return class_map


CLASS_MAPS: dict[str, np.ndarray] = {
    # Digits that look alike; only 5 and 6 are mistaken in both directions.
    "digits": _from_pairs(10, {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}),
    # truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
    "cifar10": _from_pairs(10, {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}),
    "cifar100": within_groups(CIFAR100_COARSE),
}

_MAP_OF_DATASET = {"mnist": "digits", "svhn_cropped": "digits"} | {
    name: name for name in CLASS_MAPS
}


def class_map_for(dataset: str) -> str | None:
    """Returns the name of the class map made for a data set, if there is one.

    Args:
      dataset: ``"digits"`` or a tensorflow-datasets name such as ``"tfds/cifar10"``,
        with or without the prefix and a version.

    Returns:
      A key of :data:`CLASS_MAPS`, or ``None``.

    Example:
      >>> class_map_for("tfds/mnist:3.0.1"), class_map_for("tfds/food101")
      ('digits', None)
    """
    name = dataset.removeprefix("tfds/").split(":")[0]
    return _MAP_OF_DATASET.get(name)


def resolve(
    class_map: str | Sequence[int] | np.ndarray | None,
    num_classes: int | None = None,
) -> np.ndarray:
    """Returns a class map, given by name or as an array, after checking its size.

    Args:
      class_map: a key of :data:`CLASS_MAPS`, or ``[num_classes]`` integers, which may
        be written as one string, ``"1,0,2"``.
      num_classes: of the data set; default: the map's length.

    Returns:
      ``[num_classes]`` int64.

    Raises:
      InputError: no map or an unknown name was given, the map is for another number of
        classes, or it names a class that does not exist.

    Example:
      >>> resolve("digits", 10).tolist()
      [0, 1, 7, 8, 4, 6, 5, 1, 8, 9]
      >>> resolve("0,0", 2).tolist()
      [0, 0]
    """
    if class_map is None:
        fitting = [name for name, m in CLASS_MAPS.items() if len(m) == num_classes]
        known = f"one of {', '.join(fitting)}, or " if fitting else ""
        raise InputError(
            "asymmetric noise needs a class map: set config.noise.class_map to "
            f"{known}the index of each class's target, such as 1,0,2"
        )
    what = "the class map"
    if isinstance(class_map, str) and re.fullmatch(r"[\d, ]*\d[\d, ]*", class_map):
        class_map = [int(target) for target in class_map.replace(",", " ").split()]
    if isinstance(class_map, str):
        if class_map not in CLASS_MAPS:
            raise unknown_name("class map", class_map, CLASS_MAPS)
        what = f"the class map {class_map!r}"
        class_map = CLASS_MAPS[class_map]
    targets = np.asarray(class_map)
    if targets.ndim != 1 or targets.dtype.kind not in "iu":
        raise InputError(
            f"class map: expected a list of class indices, got an array of shape "
            f"{targets.shape} and dtype {targets.dtype}; write it like 1,0,2"
        )
    if num_classes is None:
        num_classes = len(targets)
    if len(targets) != num_classes:
        raise InputError(
            f"{what} is for {len(targets)} classes and the data set has {num_classes}; "
            "choose another, or give the target of each class"
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise InputError(
            f"{what} names classes from {targets.min()} to {targets.max()}, and the "
            f"{num_classes} classes are 0 to {num_classes - 1}; fix it"
        )
    return targets.astype(np.int64)
