r"""True classes as clusters of predictions whose given labels are partly wrong.

The model behind :func:`dal_jax.analysis.label_issues`. Each example has a true class
that nobody sees, a vector :math:`x` of what a network predicts for it, and a given
label that depends on the true class alone:

.. math::
  y \sim \pi, \qquad x \mid y \sim t_\nu(\mu_y, \Sigma_y), \qquad
  \tilde y \mid y \sim T_y

With multivariate t distributions, because predictions have heavy tails; with
:math:`\Sigma_y` between the class's covariance and the common one, the nearer to this
the fewer its examples, as in regularised discriminant analysis (Friedman, 1989); and
with the transition matrix :math:`T` of Lawrence and Schölkopf (2001), "Estimating a
Kernel Fisher Discriminant in the Presence of Label Noise". Expectation maximisation
(for the t distribution: Peel and McLachlan, 2000) begins at the given labels.
"""

import dataclasses

import numpy as np

_DEGREES_OF_FREEDOM = 10.0
# How far a class of many examples is described by a covariance of its own.
_OWN_COVARIANCE = 0.7
_RIDGE = 1e-3
# Prior examples of every class whose label is right, as a share of the class: labels
# are right more often than not, and without it clusters that overlap drift apart.
_PRIOR_TRUST = 0.1
# And in number: what a few examples of a rare class say against its labels is weak.
_PRIOR_EXAMPLES = 5.0
# Of the given labels, what the first turn believes: less than they deserve.
_FIRST_TRUST = 0.3
_ITERATIONS = 30
# Turns until covariances of their own have their whole share: at once, they could
# stretch over classes that are still mixed, and stay so.
_TURNS_TO_OWN = 10
# Classes that an example may belong to: the nearest so many, and the given one.
_CANDIDATES = 12
_MOST_FITTED = 30_000


@dataclasses.dataclass(frozen=True)
class Clusters:
    """The fitted model.

    Attributes:
      projection: float32 ``[K, D]``, from centred predictions to whitened ones.
      offset: float32 ``[D]``, subtracted after the projection.
      means: float32 ``[K, D]``.
      roots: float32 ``[K, D, D]``; ``(x - mean) @ root`` has the identity as its scale.
      common_root: float32 ``[D, D]``, the same of the common covariance.
      log_scales: float64 ``[K]``, the logarithm of ``|det root|``.
      log_prior: float64 ``[K]``, minus infinity for a class that no label names.
      transition: float64 ``[K, K]``, ``P(given = j | true = i)``.
    """

    projection: np.ndarray
    offset: np.ndarray
    means: np.ndarray
    roots: np.ndarray
    common_root: np.ndarray
    log_scales: np.ndarray
    log_prior: np.ndarray
    transition: np.ndarray

    def posterior(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns ``log P(true class | features, given label)``, float32 ``[N, K]``."""
        points = features @ self.projection - self.offset
        return _normalise(self._joint(_distances(points, labels, self), labels))

    def _joint(self, distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
        dimensions = self.means.shape[1]
        nu = _DEGREES_OF_FREEDOM
        log_density = -(nu + dimensions) / 2 * np.log1p(distances / nu)
        with np.errstate(divide="ignore"):
            log_transition = np.log(self.transition)
        constant = (self.log_scales + self.log_prior).astype(np.float32)
        given = log_transition.T[labels].astype(np.float32)
        return log_density + constant + given


def fit(features: np.ndarray, labels: np.ndarray) -> Clusters:
    """Returns the model of features and given labels.

    Args:
      features: floating ``[N, K]``, e.g. log-probabilities less their mean.
      labels: integers ``[N]`` in ``[0, K)``.
    """
    num_classes = features.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    if len(labels) > _MOST_FITTED:
        rows = np.random.default_rng(0).choice(len(labels), _MOST_FITTED, replace=False)
        features, labels = features[rows], labels[rows]
    projection = _whitening(features)
    points = features @ projection
    offset = points.mean(axis=0)
    points = points - offset
    share = (counts / counts.sum()).astype(np.float32)
    believed = np.tile((1 - _FIRST_TRUST) * share, (len(labels), 1))
    believed[np.arange(len(labels)), labels] += _FIRST_TRUST
    weights = np.ones_like(believed)
    nu = _DEGREES_OF_FREEDOM
    for turn in range(_ITERATIONS):
        own_share = _OWN_COVARIANCE * min(1.0, turn / _TURNS_TO_OWN)
        model = _maximise(points, labels, believed, weights, own_share)
        distances = _distances(points, labels, model)
        believed = np.exp(_normalise(model._joint(distances, labels)))
        weights = (nu + points.shape[1]) / (nu + distances)  # 0 where infinite
    return dataclasses.replace(model, projection=projection, offset=offset)


def _maximise(points, labels, believed, weights, own_share) -> Clusters:
    """The M step, of points that are whitened already."""
    num_classes, dimensions = believed.shape[1], points.shape[1]
    total = believed.sum(axis=0, dtype=np.float64)
    weighted = believed * weights
    mass = weighted.sum(axis=0, dtype=np.float64)
    means = (weighted.T @ points) / np.maximum(mass, 1e-9)[:, None].astype(np.float32)
    scatter = np.empty((num_classes, dimensions, dimensions))
    for k in range(num_classes):
        rows = weighted[:, k] > 1e-6
        centred = points[rows] - means[k]
        scatter[k] = (centred.T * weighted[rows, k]) @ centred
    common = scatter.sum(axis=0) / len(points)
    ridge = _RIDGE * np.trace(common) / max(dimensions, 1) + 1e-12
    common += ridge * np.eye(dimensions)
    own = scatter / np.maximum(total, 1e-9)[:, None, None]
    # A covariance has so many numbers to estimate.
    numbers = 1 + dimensions * (dimensions + 1) / 2
    trust = (own_share * total / (total + numbers))[:, None, None]
    scales = trust * own + (1 - trust) * common
    roots = _inverse_root(scales)
    log_scales = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    # Labels that were never seen for a class are unlikely, not impossible.
    moves = 0.01 + np.stack(
        [np.bincount(labels, believed[:, k], num_classes) for k in range(num_classes)]
    )
    moves += np.diag(_PRIOR_TRUST * total + _PRIOR_EXAMPLES)
    with np.errstate(divide="ignore"):
        log_prior = np.log(total / total.sum())
    return Clusters(
        projection=np.eye(dimensions, dtype=np.float32),
        offset=np.zeros(dimensions, np.float32),
        means=means,
        roots=roots.astype(np.float32),
        common_root=_inverse_root(common).astype(np.float32),
        log_scales=log_scales,
        log_prior=log_prior,
        transition=moves / moves.sum(axis=1, keepdims=True),
    )


def _distances(points: np.ndarray, labels: np.ndarray, model: Clusters) -> np.ndarray:
    """Returns squared Mahalanobis distances, float32 ``[N, K]``.

    They are infinite to all classes but the nearest, by the common covariance, and the
    given one.
    """
    near = _nearest(points @ model.common_root, model.means @ model.common_root)
    near[np.arange(len(labels)), labels] = True
    distances = np.full(near.shape, np.inf, np.float32)
    for k, (mean, root) in enumerate(zip(model.means, model.roots, strict=True)):
        rows = near[:, k]
        standard = (points[rows] - mean) @ root
        distances[rows, k] = np.einsum("nd,nd->n", standard, standard)
    return distances


def _nearest(points: np.ndarray, means: np.ndarray) -> np.ndarray:
    if len(means) <= _CANDIDATES:
        return np.ones((len(points), len(means)), bool)
    closeness = points @ means.T - np.sum(means**2, axis=1) / 2
    least = np.partition(closeness, -_CANDIDATES, axis=1)[:, [-_CANDIDATES]]
    return closeness >= least


def _whitening(features: np.ndarray) -> np.ndarray:
    """Returns the projection to axes of variance 1."""
    centred = (features - features.mean(axis=0)).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    # Centred log-probabilities have one direction without spread, or more.
    kept = values > 1e-6 * max(values[-1], 1e-12)
    return (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)


def _inverse_root(scale: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.linalg.cholesky(scale)).swapaxes(-1, -2)


def _normalise(joint: np.ndarray) -> np.ndarray:
    joint = joint - joint.max(axis=1, keepdims=True)
    return joint - np.log(np.exp(joint).sum(axis=1, keepdims=True))
