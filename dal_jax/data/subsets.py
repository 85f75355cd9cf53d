"""Which examples are used: pure functions from sizes and seeds to positions."""

import dataclasses

import numpy as np

from dal_jax.data.split import Dataset, Split
from dal_jax.errors import InputError
from dal_jax.seeds import numpy_rng


def fixed_subset(split: Split, size: int, name: str) -> Split:
    """Returns ``size`` examples in their old order, the same ones in every run.

    They are drawn uniformly with a fixed seed, not the run's, and a smaller subset is
    contained in every larger one.

    Args:
      split: the examples to choose from.
      size: how many to keep, at least 1.
      name: the configuration field; it also names the random draw.

    Returns:
      The chosen examples.

    Raises:
      InputError: if there are fewer examples.
    """
    if not 1 <= size <= len(split):
        raise InputError(
            f"dataset.{name}={size}: expected 1 to {len(split)}, the number of "
            "examples there are"
        )
    chosen = numpy_rng(0, name).permutation(len(split))[:size]
    return split.take(np.sort(chosen))


def first_classes(dataset: Dataset, max_classes: int) -> Dataset:
    """Returns only the first classes of a data set, as in mini-WebVision.

    Only the given labels decide which examples stay: an image of another class that is
    wrongly labelled as one of these is noise, and the training set must not depend on
    clean labels. If such an image is known, the split's clean labels are dropped,
    because no kept class is right for it.

    Args:
      dataset: any data set.
      max_classes: how many classes to keep, at least 2.

    Returns:
      The smaller data set.

    Raises:
      InputError: if there are fewer classes, or if no example is left.
    """
    if not 2 <= max_classes <= dataset.num_classes:
        raise InputError(
            f"dataset.max_classes={max_classes}: expected 2 to {dataset.num_classes}, "
            "the number of classes there are"
        )

    def narrow(split: Split, label: str) -> Split:
        kept = split.take(np.flatnonzero(split.labels < max_classes))
        if not len(kept):
            raise InputError(
                f"dataset.max_classes={max_classes} leaves no {label} example: "
                "expected at least one; raise it"
            )
        shares = kept.label_distributions
        if shares is not None:
            # What is left of each; the kept class itself is among the most given ones.
            shares = shares[:, :max_classes]
            shares = shares / shares.sum(axis=1, keepdims=True)
            kept = dataclasses.replace(kept, label_distributions=shares)
        clean = kept.clean_labels
        if clean is not None and clean.max() >= max_classes:
            kept = dataclasses.replace(kept, clean_labels=None)
        return kept

    return dataclasses.replace(
        dataset,
        train=narrow(dataset.train, "train"),
        test=None if dataset.test is None else narrow(dataset.test, "test"),
        class_names=dataset.class_names[:max_classes],
    )


def validation_split(
    num_examples: int, fraction: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which training examples train and which are held out for validation.

    Both parts keep the given labels. Noise is applied before, so model choice never
    sees a clean label.

    Args:
      num_examples: how many training examples there are.
      fraction: the share that is held out, ``0 <= fraction < 1``, rounded to whole
        examples; 0 holds out none.
      seed: of the draw. At the default 0 the split is the same for every run's seed.

    Returns:
      Two int64 arrays of positions, each in ascending order.

    Raises:
      InputError: if the fraction is out of range or leaves either part empty.

    Example:
      >>> train, validation = validation_split(10, 0.3)
      >>> len(train), len(validation), sorted({*train, *validation}) == list(range(10))
      (7, 3, True)
    """
    if not 0 <= fraction < 1:
        raise InputError(
            f"dataset.validation_fraction={fraction}: expected 0 <= fraction < 1"
        )
    held_out = round(num_examples * fraction)
    if fraction > 0 and not 0 < held_out < num_examples:
        raise InputError(
            f"dataset.validation_fraction={fraction} of {num_examples} examples is "
            f"{held_out}: expected at least one to train on and one to validate on"
        )
    order = numpy_rng(seed, "validation").permutation(num_examples)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
