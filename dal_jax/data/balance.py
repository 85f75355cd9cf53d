"""An order of examples in which every class comes equally often."""

import numpy as np

from dal_jax.seeds import numpy_rng

# Small classes draw several passes at once: a generator takes a while to make.
_FEWEST_DRAWS = 1024


def balanced_order(seed: int, epoch: int, labels: np.ndarray, batch: int) -> np.ndarray:
    """Returns the positions of an epoch's batches: int32 ``[steps, batch]``.

    The draws of a run are numbered. Draw ``s`` is of class ``s mod K`` (of the ``K``
    classes that have examples), whose examples come in passes: each once, in an order
    of its own, before any of them comes again. So classes differ by one draw at most
    over any part of the run, those of one class by one, and an epoch follows from its
    number alone. An epoch has as many batches as without balance; examples of rare
    classes come several times in it, and some of frequent classes not at all. Within a
    batch the order is random.

    Args:
      seed: of the run's data order.
      epoch: from 0.
      labels: integers ``[N]``.
      batch: examples a step.

    Example:
      >>> labels = np.array([0] * 8 + [1] * 2)
      >>> order = balanced_order(0, 0, labels, 5)
      >>> order.shape, np.bincount(labels[order].ravel()).tolist()
      ((2, 5), [5, 5])
    """
    classes = np.unique(labels)
    steps = -(-len(labels) // batch)
    draws = np.arange(epoch * steps * batch, (epoch + 1) * steps * batch)
    order = np.empty(len(draws), np.int32)
    for number, k in enumerate(classes):
        of_class = draws % len(classes) == number
        turns = draws[of_class] // len(classes)
        order[of_class] = _in_passes(seed, k, np.flatnonzero(labels == k), turns)
    rng = numpy_rng(seed, f"balanced data order of epoch {epoch}")
    return rng.permuted(order.reshape(steps, batch), axis=1)


def _in_passes(seed: int, k: int, members: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The members of a class at some turns, which are consecutive."""
    if not len(turns):
        return turns
    passes = -(-_FEWEST_DRAWS // len(members))
    block = passes * len(members)
    first, last = turns[0] // block, turns[-1] // block
    drawn = [
        numpy_rng(seed, f"class {k}, block {number}").permuted(
            np.tile(members, (passes, 1)), axis=1
        )
        for number in range(first, last + 1)
    ]
    return np.concatenate(drawn, axis=None)[turns - first * block]
