"""Ways to find wrong labels, each from the same data and the same network.

Each takes a configuration and its prepared data, trains what it needs on the given
labels, and returns what it found. ``benchmarks/audit.py`` compares them.
"""

import copy
import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import softmax

from dal_jax import losses, recipe, training
from dal_jax.config import LossConfig, TrainConfig
from dal_jax.errors import InputError

NUM_FOLDS = 5
NUM_NEIGHBOURS = 15
QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class Found:
    """What a detector says of ``N`` labels.

    Attributes:
      score: floating ``[N]``, the larger the more suspicious.
      flagged: bool ``[N]``, the labels that it takes for wrong.
    """

    score: np.ndarray
    flagged: np.ndarray


def fit(
    config: TrainConfig, prepared: recipe.Prepared, **changes
) -> training.FitResult:
    """Trains on the given labels and evaluates nothing."""
    config = copy.deepcopy(config)
    config.train_eval_size, config.eval_every = 0, max(config.num_epochs, 1)
    alone = dataclasses.replace(prepared, validation=None, test=None)
    return training.fit(**(recipe.ingredients(config, alone) | changes))


def audit(config: TrainConfig, prepared: recipe.Prepared) -> Found:
    """dal_jax's audit of one run of the configuration."""
    issues = fit(config, prepared).label_issues()
    return Found(-issues.rank, issues.is_issue)


def margins(config: TrainConfig, prepared: recipe.Prepared) -> dict[str, Found]:
    """The area under the margin of a cross-entropy run, and of its first parts.

    Pleiss et al. (2020), arXiv:2001.10528. A margin below 0 on average is flagged.
    """
    config = with_cross_entropy(config)
    arguments = recipe.ingredients(config, prepared)
    size = len(prepared.train)
    num_steps = config.num_epochs * -(-size // config.batch_size)
    loss = remember_margins(arguments["loss"], size, num_steps)
    sums, _ = fit(config, prepared, loss=loss).state.loss_memory
    sums = np.cumsum(sums, axis=0)  # of the first quarter, of the first two, ...
    parts = {
        "CE margin": QUARTERS,
        "CE margin, first half": QUARTERS // 2,
        "CE margin, first quarter": 1,
    }
    means = {name: sums[n - 1, :, 0] / sums[n - 1, :, 1] for name, n in parts.items()}
    return {name: Found(-mean, mean < 0) for name, mean in means.items()}


def remember_margins(
    loss: losses.StatefulLoss, num_examples: int, num_steps: int
) -> losses.StatefulLoss:
    """Returns the loss with a memory of ``(margins, the loss's own memory)``.

    ``margins``, float32 ``[quarters, N, 2]``, holds each example's summed margin in
    each quarter of the run, and how often it was seen there.
    """

    def init():
        return jnp.zeros((QUARTERS, num_examples, 2)), loss.init()

    def apply(logits, labels, step, memory, index):
        sums, own = memory
        values, own = loss.apply(logits, labels, step, own, index)
        seen = lax.stop_gradient(logits.astype(jnp.float32))
        is_given = jax.nn.one_hot(labels, seen.shape[-1], dtype=bool)
        given = jnp.max(seen, axis=-1, initial=-jnp.inf, where=is_given)
        other = jnp.max(seen, axis=-1, initial=-jnp.inf, where=~is_given)
        entry = jnp.stack([given - other, jnp.ones_like(given)], axis=-1)
        quarter = step * QUARTERS // num_steps
        return values, (sums.at[quarter, index].add(entry), own)

    return losses.StatefulLoss(init, apply, loss.coefficients)


def confident_learning(
    config: TrainConfig, prepared: recipe.Prepared, num_epochs: int
) -> Found:
    """Cleanlab with its defaults, on cross-validated cross entropy.

    Northcutt et al. (2021), arXiv:1911.00068.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise InputError(
            "cleanlab is not installed: expected it for the method cleanlab; "
            "pip install cleanlab, or leave the method out of --methods"
        )
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    config = with_cross_entropy(config)
    config.num_epochs = num_epochs
    labels = prepared.train.labels
    probabilities = np.empty((len(labels), len(prepared.class_names)))
    for kept, held_out in folds(len(labels), config.seed):
        part = dataclasses.replace(
            prepared,
            train=prepared.train.take(kept),
            record=prepared.record.take(kept),
        )
        inputs = prepared.train.take(held_out).inputs
        logits = fit(config, part).predict_logits(inputs)
        probabilities[held_out] = softmax(logits.astype(np.float64), axis=1)
    flagged = find_label_issues(labels, probabilities, n_jobs=1)
    return Found(1 - get_label_quality_scores(labels, probabilities), flagged)


def vote(config: TrainConfig, prepared: recipe.Prepared) -> Found:
    """The cross-validated vote of the nearest neighbours on the pixels.

    Flagged are the labels that do not have the most votes.
    """
    from sklearn.neighbors import KNeighborsClassifier

    labels = prepared.train.labels
    pixels = np.asarray(prepared.train.inputs).reshape(len(labels), -1).astype(float)
    share = np.zeros((len(labels), len(prepared.class_names)))
    for kept, held_out in folds(len(labels), config.seed):
        neighbours = KNeighborsClassifier(NUM_NEIGHBOURS).fit(
            pixels[kept], labels[kept]
        )
        columns = np.ix_(held_out, neighbours.classes_)
        share[columns] = neighbours.predict_proba(pixels[held_out])
    given = share[np.arange(len(labels)), labels]
    return Found(1 - given, given < share.max(axis=1))


def folds(size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns ``(kept, held out)`` positions of each fold."""
    fold = np.random.default_rng(seed).permutation(size) % NUM_FOLDS
    return [
        (np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(NUM_FOLDS)
    ]


def with_cross_entropy(config: TrainConfig) -> TrainConfig:
    config = copy.deepcopy(config)
    config.loss = LossConfig("ce")
    return config
