r"""Which labels are wrong, from what one network predicted for each example.

Predictions of one class lie together whatever their given labels are, as long as the
network has not memorised these. So each true class is a cluster of mean
log-probabilities, given labels leave it by a transition matrix, and both are estimated
together (:mod:`dal_jax.analysis.clusters`). The score of an example is the probability
that its true class is another than the given one:

.. math::
  s_i = 1 - P(y = \tilde y_i \mid x_i, \tilde y_i)

whose sum is the expected number of wrong labels. docs/audit.md compares it with the
area under the margin (Pleiss et al., 2020, arXiv:2001.10528), data maps (Swayamdipta et
al., 2020, arXiv:2009.10795), forgetting events (Toneva et al., 2019, arXiv:1812.05159)
and confident learning (Northcutt et al., 2021, arXiv:1911.00068).
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from dal_jax.analysis import clusters
from dal_jax.errors import InputError

# Below this a probability says no more; float32 holds its square.
_LEAST = 1e-18
_BLOCK_NUMBERS = 2**23


@dataclasses.dataclass(frozen=True)
class LabelIssues:
    """The audit of ``N`` labels of ``K`` classes.

    Attributes:
      given: int32 ``[N]``, the labels as given.
      score: float32 ``[N]`` in [0, 1], 1 the most suspicious.
      suggested: int32 ``[N]``, the most probable true class; of an issue never the
        given one.
      order: int64 ``[N]``, the examples from the most suspicious to the least.
      is_issue: bool ``[N]``, true for the first ``num_issues`` in this order.
      num_issues: the estimated number of wrong labels.
      transition_matrix: float64 ``[K, K]``; row ``i`` estimates
        ``P(given = j | true = i)``, nan for a class that no label names.
      expected_counts: float64 ``[K, K]``, how many examples of true class ``i`` are
        expected among those of given label ``j``.
    """

    given: np.ndarray
    score: np.ndarray
    suggested: np.ndarray
    order: np.ndarray
    is_issue: np.ndarray
    num_issues: int
    transition_matrix: np.ndarray
    expected_counts: np.ndarray

    @property
    def rank(self) -> np.ndarray:
        """int64 ``[N]``, each example's place in ``order``, from 0."""
        rank = np.empty_like(self.order)
        rank[self.order] = np.arange(len(rank))
        return rank

    def confused_pairs(self, most: int = 10) -> list[tuple[int, int, float]]:
        """Returns ``(true, given, expected count)``, the largest counts first."""
        counts = self.expected_counts.copy()
        np.fill_diagonal(counts, 0)
        places = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), len(counts)) for place in places]
        return [(i, j, float(counts[i, j])) for i, j in pairs if counts[i, j] > 0]


def label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    r"""Returns the audit of labels, given what a network predicts.

    Args:
      labels: the given ones, integers ``[N]`` in ``[0, K)``.
      probabilities: floating ``[N, K]``, at least 0; rows are rescaled to the sum 1.
        In-sample predictions averaged over the epochs of a robust run, as
        ``exp(mean_log_probability)`` of a run's dynamics, or out-of-sample ones.

    Returns:
      The audit; the same for the same input, whatever the machine's random state.

    Raises:
      InputError: shapes, labels or probabilities that do not fit.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> true = np.repeat([0, 1], 50)
      >>> seen = np.exp(rng.normal(size=(100, 2)) + 4 * np.eye(2)[true])
      >>> given = np.where(np.arange(100) % 10 == 0, 1 - true, true)
      >>> audit = label_issues(given, seen / seen.sum(axis=1, keepdims=True))
      >>> audit.num_issues, audit.confused_pairs()[0][:2]
      (10, (1, 0))
    """
    labels, probabilities = _checked(labels, probabilities)
    num_examples, num_classes = probabilities.shape
    features = _features(probabilities)
    model = clusters.fit(features, labels)
    score = np.empty(num_examples, np.float32)
    other = np.empty(num_examples, np.int32)
    odds = np.empty(num_examples, np.float32)
    expected = np.zeros((num_classes, num_classes))
    rows = max(1, _BLOCK_NUMBERS // num_classes)
    for first in range(0, num_examples, rows):
        block = slice(first, first + rows)
        given = labels[block]
        log_posterior = model.posterior(features[block], given)
        every = np.arange(len(given))
        for k in np.unique(given):
            expected[:, k] += np.exp(log_posterior[given == k]).sum(axis=0)
        own = log_posterior[every, given].copy()
        log_posterior[every, given] = -np.inf
        other[block] = np.argmax(log_posterior, axis=1)
        with np.errstate(divide="ignore"):
            rest = np.log(np.sum(np.exp(log_posterior), axis=1))
        odds[block] = rest - own
        score[block] = np.exp(rest)
    # Odds tell apart what rounds to a probability of 0 or 1.
    order = np.argsort(-odds, kind="stable")
    num_issues = int(np.rint(score.sum(dtype=np.float64)))
    is_issue = np.zeros(num_examples, bool)
    is_issue[order[:num_issues]] = True
    counts = expected.sum(axis=1, keepdims=True)
    transition = np.full_like(expected, np.nan)
    np.divide(expected, counts, out=transition, where=counts > 0)
    return LabelIssues(
        given=labels,
        score=np.clip(score, 0, 1),
        suggested=np.where(is_issue | (odds > 0), other, labels).astype(np.int32),
        order=order,
        is_issue=is_issue,
        num_issues=num_issues,
        transition_matrix=transition,
        expected_counts=expected,
    )


class Ranking(NamedTuple):
    """How well scores find the labels that are wrong; nan where nothing is to find.

    Attributes:
      auroc: the share of pairs of a wrong and a right label whose wrong one has the
        larger score; ties count half.
      average_precision: the mean, over the wrong labels, of the precision at each.
      precision: among the first ``num_issues``.
      recall: of the wrong labels among the first ``num_issues``.
    """

    auroc: float
    average_precision: float
    precision: float
    recall: float


def rank_quality(
    score: np.ndarray, wrong: np.ndarray, num_issues: int | None = None
) -> Ranking:
    """Returns how well scores find wrong labels, where these are known.

    Args:
      score: floating ``[N]``, larger for the more suspicious; or minus the rank.
      wrong: bool ``[N]``, the labels that are wrong.
      num_issues: how many to look at; as many as are wrong by default.

    Example:
      >>> rank_quality(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1, 0, 1, 0]), 1)
      Ranking(auroc=0.75, average_precision=0.833, precision=1.0, recall=0.5)
    """
    from scipy.stats import rankdata  # takes its time to import

    score, wrong = np.asarray(score), np.asarray(wrong).astype(bool)
    number = int(wrong.sum())
    num_issues = number if num_issues is None else num_issues
    found = wrong[np.argsort(-score, kind="stable")]
    first = int(found[:num_issues].sum())
    precision = first / num_issues if num_issues else float("nan")
    if not number:
        return Ranking(float("nan"), float("nan"), precision, float("nan"))
    places = np.flatnonzero(found) + 1
    average = float(np.mean(np.arange(1, number + 1) / places))
    right = len(wrong) - number
    below = rankdata(score)[wrong].sum() - number * (number + 1) / 2
    auroc = float(below / (number * right)) if right else float("nan")
    return Ranking(auroc, average, precision, first / number)


def _features(probabilities: np.ndarray) -> np.ndarray:
    """Returns log-probabilities less their mean over the classes, float32."""
    features = np.empty(probabilities.shape, np.float32)
    rows = max(1, _BLOCK_NUMBERS // probabilities.shape[1])
    for first in range(0, len(probabilities), rows):
        block = np.asarray(probabilities[first : first + rows], np.float32)
        log_p = np.log(np.maximum(block, _LEAST))
        log_p -= log_p.mean(axis=1, keepdims=True)
        features[first : first + rows] = log_p
    return features


def _checked(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise InputError(
            f"labels of shape {labels.shape} and probabilities of shape "
            f"{probabilities.shape} do not fit: expected [N] and [N, K]"
        )
    num_examples, num_classes = probabilities.shape
    if not num_examples or num_classes < 2:
        raise InputError(
            f"probabilities of shape {probabilities.shape} leave nothing to audit: "
            "expected an example or more and two classes or more"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels have dtype {labels.dtype}: expected integers; use class numbers"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"labels span {labels.min()} to {labels.max()}: expected 0 to "
            f"{num_classes - 1}, the columns of the probabilities"
        )
    bad = ~np.isfinite(probabilities.min(axis=1)) | (probabilities.min(axis=1) < 0)
    bad |= ~np.isfinite(probabilities.max(axis=1))
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} rows of the probabilities are negative or not finite, "
            f"the first is row {int(np.argmax(bad))}: expected numbers of at least 0; "
            "leave examples out that were never predicted"
        )
    return labels.astype(np.int32), probabilities
