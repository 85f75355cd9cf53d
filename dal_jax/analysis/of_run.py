"""The audit of a run's training labels, from what the run saw of every example."""

from collections.abc import Mapping

import numpy as np

from dal_jax.analysis.label_issues import LabelIssues, label_issues

# Of a class that is not among the leading ones.
_LEAST = 1e-6


def of_dynamics(
    labels: np.ndarray, dynamics: Mapping[str, np.ndarray], num_classes: int
) -> LabelIssues:
    """Returns the audit of a run's given labels.

    Args:
      labels: the given ones, integers ``[N]``, as ``noisy_labels`` of ``noise.npz``.
      dynamics: the arrays of ``dynamics.npz``, in the same order.
      num_classes: ``K``.

    Raises:
      InputError: see :func:`dal_jax.analysis.label_issues`.

    Example:
      >>> labels = np.arange(100) % 2
      >>> seen = np.log([[0.9, 0.1], [0.2, 0.8]]).astype(np.float32)[labels]
      >>> of_dynamics(labels, {"mean_log_probability": seen}, 2).given.shape
      (100,)
    """
    return label_issues(labels, mean_prediction(dynamics, num_classes))


def mean_prediction(dynamics: Mapping[str, np.ndarray], num_classes: int) -> np.ndarray:
    """Returns what the run predicted on average, float32 ``[N, K]``.

    That is the geometric mean over the epochs. Where only the leading classes were
    followed it is their share of the probability. An example that was never seen has
    the same number for every class.
    """
    if "mean_log_probability" in dynamics:
        prediction = np.exp(dynamics["mean_log_probability"])
    else:
        prediction = _from_leading(dynamics, num_classes)
    prediction[~np.isfinite(prediction[:, 0])] = 1
    return prediction


def _from_leading(dynamics: Mapping[str, np.ndarray], num_classes: int) -> np.ndarray:
    classes, weights = dynamics["leading_classes"], dynamics["leading_weights"]
    seen = np.maximum(dynamics["num_seen"], 1)[:, None].astype(np.float32)
    prediction = np.full((len(classes), num_classes), _LEAST, np.float32)
    rows, slots = np.nonzero(classes >= 0)
    prediction[rows, classes[rows, slots]] += (weights / seen)[rows, slots]
    return prediction
