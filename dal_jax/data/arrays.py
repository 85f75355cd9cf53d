"""Inputs and labels that are numpy arrays already.

``.npz``: one file with ``images`` or ``inputs``, ``labels`` and, if known,
``clean_labels`` and ``class_names``. ``.npy``: the file of the inputs, with ``images``
or ``inputs`` in its name; the others are in the same directory, with that word replaced
(``train_images.npy``, ``train_labels.npy``, ``train_clean_labels.npy``,
``train_class_names.npy``). Nothing is ever unpickled.

``images`` are uint8; ``inputs`` are anything else that a network takes, e.g. float
features ``[N, D]``, and are used as they are.
"""

import zipfile
from pathlib import Path

import numpy as np

from dal_jax.data.images import ArrayImages, with_channel_axis
from dal_jax.data.split import Dataset, InputSource, Split
from dal_jax.errors import InputError

_KINDS = ("images", "inputs")
_OTHERS = ("labels", "clean_labels", "class_names")
# Number of values checked at a time for one that is not finite.
_CHUNK_VALUES = 2**24


def load(
    train_path: str | None,
    test_path: str | None,
    *,
    channels: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Returns a data set of two array files.

    Args:
      train_path: ``.npz``, or the ``.npy`` of the inputs: ``images`` are uint8
        ``[N, H, W]`` or ``[N, H, W, C]`` with C 1 or 3, ``inputs`` numbers
        ``[N, ...]``; labels are integers ``[N]``.
      test_path: likewise; None for no test split.
      channels: of images, 1 or 3; None keeps those of the arrays.
      image_size: of images, see :func:`dal_jax.data.decode.decode`.

    Returns:
      The data set. Clean labels are the arrays' ``clean_labels``, or unknown. Without
      ``class_names`` a class is named by its number, and the largest label given in
      training says how many there are.

    Raises:
      InputError: if a file is missing, is no array file, or its arrays do not fit, or
        if a value is not finite.
    """
    if train_path is None:
        raise InputError(
            "dataset.name=arrays needs dataset.train_path, an .npz with images or "
            "inputs and labels, or an .npy of images or inputs"
        )
    train = _read(Path(train_path).expanduser())
    class_names = _class_names(train, train_path)
    test = None
    if test_path is not None:
        test_arrays = _read(Path(test_path).expanduser())
        test = _split(test_arrays, test_path, len(class_names), channels, image_size)
    return Dataset(
        name="arrays",
        train=_split(train, train_path, len(class_names), channels, image_size),
        test=test,
        class_names=class_names,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"no file {path}: expected an .npz or .npy; check the path")
    word = next((kind for kind in _KINDS if kind in path.name), None)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                known = [key for key in archive.files if key in _KINDS + _OTHERS]
                arrays = {key: archive[key] for key in known}
            there = archive.files
        elif path.suffix == ".npy" and word is not None:
            paths = {
                key: path.with_name(path.name.replace(word, key))
                for key in (word, *_OTHERS)
            }
            arrays = {
                key: np.load(file, mmap_mode="r", allow_pickle=False)
                for key, file in paths.items()
                if file.is_file()
            }
            there = [paths[key].name for key in arrays]
        else:
            raise InputError(
                f"{path}: expected an .npz, or an .npy with 'images' or 'inputs' in "
                "its name and the labels in the same directory; rename it"
            )
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} does not load ({error}): expected plain numpy arrays, nothing "
            "pickled; save it again with numpy"
        ) from None
    kinds = [kind for kind in _KINDS if kind in arrays]
    if len(kinds) != 1 or "labels" not in arrays:
        missing = "labels" if kinds else "images and no inputs"
        wrong = "both images and inputs" if len(kinds) == 2 else f"no {missing}"
        raise InputError(
            f"{path} has {wrong}, it has {', '.join(there) or 'nothing'}: expected "
            "images or inputs, and labels; rename the array"
        )
    return arrays


def _kind(arrays: dict[str, np.ndarray]) -> str:
    return next(kind for kind in _KINDS if kind in arrays)


def _class_names(arrays: dict[str, np.ndarray], path: str) -> tuple[str, ...]:
    if "class_names" in arrays:
        return tuple(str(name) for name in arrays["class_names"])
    labels = _labels(arrays, "labels", path, None)
    largest = max(int(labels.max(initial=0)), 0)
    if "clean_labels" in arrays:
        clean = _labels(arrays, "clean_labels", path, None)
        largest = max(largest, int(clean.max(initial=0)))
    return tuple(str(label) for label in range(largest + 1))


def _labels(
    arrays: dict[str, np.ndarray], key: str, path: str, num_classes: int | None
) -> np.ndarray:
    labels = arrays[key]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {key} are {labels.dtype} {list(labels.shape)}, expected integers "
            "[N]; convert them"
        )
    kind = _kind(arrays)
    if len(labels) != len(arrays[kind]):
        raise InputError(
            f"{path}: {len(arrays[kind])} {kind} and {len(labels)} {key}, expected as "
            "many of each; check which belong together"
        )
    wrong = labels < 0
    if num_classes is not None:
        wrong |= labels >= num_classes
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        bound = "at least 0" if num_classes is None else f"0 to {num_classes - 1}"
        raise InputError(
            f"{path}: {key}[{position}] is {labels[position]}, expected {bound}; fix "
            "the label or name all classes in class_names"
        )
    return np.asarray(labels, np.int32)


def _split(
    arrays: dict[str, np.ndarray],
    path: str,
    num_classes: int,
    channels: int | None,
    image_size: int | None,
) -> Split:
    if _kind(arrays) == "images":
        inputs = _images(arrays["images"], path, channels, image_size)
    else:
        if channels is not None or image_size is not None:
            raise InputError(
                f"{path}: dataset.channels and dataset.image_size are for images, and "
                "inputs are used as they are; leave both out"
            )
        inputs = _numbers(arrays["inputs"], path)
    clean = None
    if "clean_labels" in arrays:
        clean = _labels(arrays, "clean_labels", path, num_classes)
    labels = _labels(arrays, "labels", path, num_classes)
    return Split(inputs, labels, clean_labels=clean)


def _images(
    images: np.ndarray, path: str, channels: int | None, image_size: int | None
) -> InputSource:
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[-1] not in (1, 3))
    ):
        raise InputError(
            f"{path}: images are {images.dtype} {list(images.shape)}, expected uint8 "
            "[N, H, W] or [N, H, W, C] with C 1 or 3 and values 0 to 255; convert "
            "them, or call them inputs to use them as they are"
        )
    if len(images) == 0:
        raise InputError(f"{path} holds no image: expected at least one; add images")
    images = with_channel_axis(images)
    return ArrayImages(
        channels=channels or images.shape[-1],
        image_size=image_size,
        array=images,
        path=path if path.endswith(".npy") else None,
    )


def _numbers(inputs: np.ndarray, path: str) -> np.ndarray:
    if inputs.ndim < 2 or inputs.dtype.kind not in "fiub" or inputs.size == 0:
        raise InputError(
            f"{path}: inputs are {inputs.dtype} {list(inputs.shape)}, expected numbers "
            "[N, ...], one row an example and one example at least; convert them"
        )
    if inputs.dtype.kind == "f":
        _check_finite(inputs, path)
    return inputs


def _check_finite(inputs: np.ndarray, path: str):
    rows_at_once = max(1, _CHUNK_VALUES * len(inputs) // inputs.size)
    wrong = []
    for start in range(0, len(inputs), rows_at_once):
        chunk = inputs[start : start + rows_at_once].reshape(-1, inputs[0].size)
        wrong += (start + np.flatnonzero(~np.isfinite(chunk).all(axis=1))).tolist()
    if wrong:
        first = ", ".join(map(str, wrong[:3])) + ", ..." * (len(wrong) > 3)
        raise InputError(
            f"{path}: {len(wrong)} of {len(inputs)} rows of inputs hold NaN or "
            f"infinity (rows {first}): expected finite numbers; fill them in or remove "
            "the rows"
        )
