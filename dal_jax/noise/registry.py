"""Makes every kind of noise by name, and records it."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dal_jax.errors import InputError, unknown_name
from dal_jax.noise import files
from dal_jax.noise.checks import check_index, check_labels, check_rate, check_seed
from dal_jax.noise.class_maps import resolve
from dal_jax.noise.instance import instance_dependent
from dal_jax.noise.matrices import (
    CLASS_CONDITIONAL,
    check_transition_matrix,
    matrix_of,
)
from dal_jax.noise.record import NoiseRecord
from dal_jax.noise.transition import from_transition_matrix

_KINDS = (*CLASS_CONDITIONAL, "transition_matrix", "instance", "file")


def kinds() -> tuple[str, ...]:
    """Returns the names that :func:`apply` knows.

    Example:
      >>> "symmetric" in kinds()
      True
    """
    return _KINDS


def apply(
    kind: str,
    labels: np.ndarray,
    *,
    num_classes: int,
    rate: float = 0.0,
    seed: int = 0,
    clean_labels: np.ndarray | None = None,
    index: np.ndarray | None = None,
    source_size: int | None = None,
    index_is_original: bool = True,
    images: Any = None,
    path: str | os.PathLike[str] | None = None,
    class_map: str | Sequence[int] | np.ndarray | None = None,
    transition_matrix: Sequence[Sequence[float]] | np.ndarray | None = None,
    pixel_scaling: str = "standardized",
) -> NoiseRecord:
    """Makes labels wrong in one of the known ways, and records what was done.

    Args:
      kind: one of :func:`kinds`.
      labels: ``[N]`` integers in ``[0, num_classes)``, as the source gives them.
      num_classes: at least 2.
      rate: in [0, 1]; kinds ``none``, ``transition_matrix`` and ``file`` ignore it.
      seed: of the noise, at least 0.
      clean_labels: ``[N]`` integers, or ``None`` if unknown. They only affect what the
        record reports (and whether a file's order is accepted).
      index: ``[N]`` integers, each example's original index in its source; default:
        its position. It decides which random numbers, and which label in a file,
        belong to an example.
      source_size: the number of examples in the whole source; default: ``N``.
      index_is_original: false if the source records no original order; then a label
        file is accepted only if it is an ``.npz`` whose clean labels are the data's.
      images: kind ``instance``: uint8 ``[N, H, W, C]``, other numbers ``[N, ...]``, or
        a source of such.
      path: kind ``file``: labels as ``.npy`` or a ``noise.npz``; kind
        ``transition_matrix``: the matrix as ``.npy``, or a ``noise.npz``'s own.
      class_map: kind ``asymmetric``: a name or the target of each class.
      transition_matrix: kind ``transition_matrix``, instead of ``path``.
      pixel_scaling: kind ``instance``: ``raw``, ``unit`` or ``standardized``.

    Returns:
      The record, in the order of the examples, without those that a file leaves out.

    Raises:
      InputError: an unknown kind, or an argument that is missing or does not fit.

    Example:
      >>> labels = np.repeat(np.arange(10), 1000)
      >>> record = apply("symmetric", labels, num_classes=10, rate=0.4,
      ...                clean_labels=labels)
      >>> bool(abs(record.realised_rate - 0.36) < 0.02)
      True
    """
    if kind not in _KINDS:
        raise unknown_name("noise kind", kind, _KINDS)
    if transition_matrix is not None and kind != "transition_matrix":
        raise InputError(
            f"noise kind {kind} takes no transition matrix; leave it out, or use kind "
            "transition_matrix"
        )
    labels = check_labels(labels, num_classes)
    if clean_labels is not None:
        clean_labels = check_labels(clean_labels, num_classes, "clean labels")
        if clean_labels.shape != labels.shape:
            raise InputError(
                f"{len(labels)} labels and {len(clean_labels)} clean labels: expected "
                "the same number; check which belong together"
            )
    index = check_index(index, len(labels))
    options: dict[str, Any] = {}
    if kind in ("file", "transition_matrix") and transition_matrix is None:
        if path is None:
            raise InputError(
                f"noise kind {kind} needs a file: set config.noise.path to its path"
            )
        options["path"] = os.fspath(path)
        if kind == "transition_matrix":
            transition_matrix = files.read_transition_matrix(path)
    if kind == "none":
        nominal_rate, noisy = 0.0, labels
    elif kind == "file":
        nominal_rate = float("nan")
        noisy = files.aligned(
            options["path"],
            index,
            num_classes,
            source_size=source_size,
            index_is_original=index_is_original,
            clean_labels=clean_labels,
        )
        kept = noisy != files.LEFT_OUT
        noisy, index = noisy[kept], index[kept]
        clean_labels = None if clean_labels is None else clean_labels[kept]
    elif kind == "instance":
        if images is None:
            raise InputError("noise kind instance needs the images: pass images=")
        options |= {"seed": check_seed(seed), "pixel_scaling": pixel_scaling}
        nominal_rate = check_rate(rate)
        noisy = instance_dependent(
            images,
            labels,
            num_classes,
            rate,
            seed,
            pixel_scaling=pixel_scaling,
            index=index,
        )
    else:
        options["seed"] = check_seed(seed)
        if kind == "asymmetric":
            targets = resolve(class_map, num_classes)
            named = isinstance(class_map, str)
            options["class_map"] = class_map if named else targets.tolist()
        if transition_matrix is None:
            matrix = matrix_of(kind, num_classes, rate, class_map=class_map)
            nominal_rate = check_rate(rate)
        else:
            matrix = check_transition_matrix(transition_matrix, num_classes)
            nominal_rate = float(np.mean(1 - np.diag(matrix)[labels]))
        noisy = from_transition_matrix(labels, matrix, seed, index=index)
    return NoiseRecord.count(
        noisy,
        clean_labels,
        index,
        num_classes=num_classes,
        nominal_rate=nominal_rate,
        kind=kind,
        options=options,
    )
