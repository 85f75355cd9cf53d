"""scikit-learn's bundled handwritten digits: 1,797 real images of 8 x 8 pixels.

They need no network and no files, so the README's first command trains on them.
"""

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.data.split import Dataset, Split
from dal_jax.seeds import numpy_rng

TRAIN_SIZE = 1297


def load() -> Dataset:
    """Returns the digits, 1,297 for training and 500 for testing by a fixed shuffle.

    Images are uint8 ``[N, 8, 8, 1]``: the 17 grey levels 0 to 16 scaled to 0 to 255
    and rounded. ``index`` is the position in scikit-learn's own order.

    Returns:
      The data set; its clean labels are its labels.

    Example:
      >>> dataset = load()
      >>> dataset.train.inputs.shape, dataset.test.inputs.shape
      ((1297, 8, 8, 1), (500, 8, 8, 1))
    """
    pixels, labels = _read()
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    order = numpy_rng(0, "digits").permutation(len(labels))

    def split(index: np.ndarray) -> Split:
        return Split(
            inputs=images[index],
            labels=labels[index],
            index=index.astype(np.int64),
            clean_labels=labels[index],
            source_size=len(labels),
        )

    return Dataset(
        name="digits",
        train=split(order[:TRAIN_SIZE]),
        test=split(order[TRAIN_SIZE:]),
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels ``[N, 64]`` and labels ``[N]``, as ``load_digits`` does.

    From the file in the installed package where it is found, because importing
    scikit-learn takes longer than anything else that a run of the digits does before it
    trains.
    """
    package = importlib.util.find_spec("sklearn")
    for directory in (package and package.submodule_search_locations) or ():
        path = Path(directory) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt") as file:
                rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(int)
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return digits.data, digits.target
