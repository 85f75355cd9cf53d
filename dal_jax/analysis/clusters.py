r"""True classes as clusters of predictions whose given labels are partly wrong.

The model behind :func:`dal_jax.analysis.label_issues`. Each example has a true class
that nobody sees, a vector :math:`x` of what a network predicts for it, and a given
label that depends on the true class alone:

.. math::
  y \sim \pi, \qquad x \mid y \sim t_\nu(\mu_y, \Sigma_y), \qquad
  \tilde y \mid y \sim T_y

With multivariate t distributions, because predictions have heavy tails; with
:math:`\Sigma_y` halfway between the class's covariance and the common one, as in
regularised discriminant analysis (Friedman, 1989), because a class may be rare; and
with the transition matrix :math:`T` of Lawrence and Schölkopf (2001), "Estimating a
Kernel Fisher Discriminant in the Presence of Label Noise". Expectation maximisation
(for the t distribution: Peel and McLachlan, 2000) begins at the given labels.
"""

import dataclasses

import numpy as np

_DEGREES_OF_FREEDOM = 10.0
_SHRINKAGE = 0.5
_RIDGE = 1e-3
# Of the given labels, what the first turn believes.
_FIRST_TRUST = 0.7
_ITERATIONS = 30
# More dimensions cost time and hardly help: with K classes, K - 1 say all.
_MOST_DIMENSIONS = 48
_MOST_FITTED = 30_000
_BLOCK_NUMBERS = 2**23


@dataclasses.dataclass(frozen=True)
class Clusters:
    """The fitted model.

    Attributes:
      projection: float32 ``[K, D]``, from centred predictions to whitened ones.
      offset: float32 ``[D]``, subtracted after the projection.
      means: float32 ``[K, D]``.
      roots: float32 ``[K, D, D]``; ``(x - mean) @ root`` has the identity as its scale.
      log_scales: float64 ``[K]``, the logarithm of ``|det root|``.
      log_prior: float64 ``[K]``, minus infinity for a class that no label names.
      transition: float64 ``[K, K]``, ``P(given = j | true = i)``.
    """

    projection: np.ndarray
    offset: np.ndarray
    means: np.ndarray
    roots: np.ndarray
    log_scales: np.ndarray
    log_prior: np.ndarray
    transition: np.ndarray

    def posterior(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns ``log P(true class | features, given label)``, float32 ``[N, K]``."""
        points = features @ self.projection - self.offset
        return _normalise(self._joint(_distances(points, self), labels))

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
    projection = _discriminants(features, labels)
    points = features @ projection
    offset = points.mean(axis=0)
    points = points - offset
    share = (counts / counts.sum()).astype(np.float32)
    believed = np.tile((1 - _FIRST_TRUST) * share, (len(labels), 1))
    believed[np.arange(len(labels)), labels] += _FIRST_TRUST
    weights = np.ones_like(believed)
    for _ in range(_ITERATIONS):
        model = _maximise(points, labels, believed, weights, projection, offset)
        distances = _distances(points, model)
        believed = np.exp(_normalise(model._joint(distances, labels)))
        nu = _DEGREES_OF_FREEDOM
        weights = (nu + points.shape[1]) / (nu + distances)
    return model


def _maximise(points, labels, believed, weights, projection, offset) -> Clusters:
    """The M step."""
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
    ridge = _RIDGE * np.trace(common) / dimensions + 1e-12
    common += ridge * np.eye(dimensions)
    own = scatter / np.maximum(total, 1e-9)[:, None, None]
    scales = np.where((total > 1)[:, None, None], own, common)
    scales = (1 - _SHRINKAGE) * scales + _SHRINKAGE * common
    roots = np.linalg.inv(np.linalg.cholesky(scales)).swapaxes(1, 2)
    log_scales = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    # Labels that were never seen for a class are unlikely, not impossible.
    moves = 0.01 + np.stack(
        [np.bincount(labels, believed[:, k], num_classes) for k in range(num_classes)]
    )
    with np.errstate(divide="ignore"):
        log_prior = np.log(total / total.sum())
    return Clusters(
        projection=projection,
        offset=offset,
        means=means,
        roots=roots.astype(np.float32),
        log_scales=log_scales,
        log_prior=log_prior,
        transition=moves / moves.sum(axis=1, keepdims=True),
    )


def _distances(points: np.ndarray, model: Clusters) -> np.ndarray:
    """Returns squared Mahalanobis distances to every class, float32 ``[N, K]``."""
    distances = np.empty((len(points), len(model.means)), np.float32)
    for k, (mean, root) in enumerate(zip(model.means, model.roots, strict=True)):
        standard = (points - mean) @ root
        distances[:, k] = np.einsum("nd,nd->n", standard, standard)
    return distances


def _discriminants(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the directions in which the given classes differ most, whitened."""
    num_classes = features.shape[1]
    centred = (features - features.mean(axis=0)).astype(np.float64)
    covariance = centred.T @ centred / len(centred)
    values, vectors = np.linalg.eigh(covariance)
    # Centred log-probabilities have one direction without spread, or more.
    kept = values > 1e-6 * max(values[-1], 1e-12)
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    if whiten.shape[1] > _MOST_DIMENSIONS:
        counts = np.bincount(labels, minlength=num_classes)
        sums = np.zeros((num_classes, num_classes))
        np.add.at(sums, labels, centred)
        means = sums / np.sqrt(np.maximum(counts, 1))[:, None] @ whiten
        _, turn = np.linalg.eigh(means.T @ means)
        whiten = whiten @ turn[:, -_MOST_DIMENSIONS:]
    return whiten.astype(np.float32)


def _normalise(joint: np.ndarray) -> np.ndarray:
    joint = joint - joint.max(axis=1, keepdims=True)
    return joint - np.log(np.exp(joint).sum(axis=1, keepdims=True))
