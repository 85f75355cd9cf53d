"""Writes losses_family.npz: the losses beside DAL, value and gradient in float64.

    python tests/golden/make_losses_family.py

Independent of the package and of JAX: each loss is written in numpy from its paper's
definition, for one example, on probabilities and not on their logarithms, and its
gradient is taken by complex steps, ``imag f(z + i h) / h`` with ``h = 1e-30``, which is
exact to rounding. Logits are normal with standard deviation 2, seed 20230321.
"""

from pathlib import Path

import numpy as np

STEP = 1e-30


def softmax(z):
    e = np.exp(z - z.real.max())
    return e / e.sum()


def ce(z, y):
    return -np.log(softmax(z)[y])


def rce(z, y):
    label = np.where(np.arange(len(z)) == y, 1.0, 1e-4)
    return -(softmax(z) * np.log(label)).sum()


def sce(z, y, alpha, beta):
    return alpha * ce(z, y) + beta * rce(z, y)


def nce(z, y):
    return ce(z, y) / sum(ce(z, j) for j in range(len(z)))


def nce_rce(z, y, alpha, beta):
    return alpha * nce(z, y) + beta * rce(z, y)


def focal(z, y, gamma):
    return (1 - softmax(z)[y]) ** gamma * ce(z, y)


def nfl(z, y, gamma):
    return focal(z, y, gamma) / sum(focal(z, j, gamma) for j in range(len(z)))


def nnce(z, y, min_probability):
    p = softmax(z)
    p = np.where(p.real < min_probability, min_probability, p)
    height = np.log(p) - np.log(min_probability)
    return 1 - height[y] / height.sum()


def anl_ce(z, y, alpha, beta, min_probability):
    return alpha * nce(z, y) + beta * nnce(z, y, min_probability)


def taylor_ce(z, y, order):
    rest = 1 - softmax(z)[y]
    return sum(rest**i / i for i in range(1, order + 1))


def agce(z, y, a, q):
    return ((a + 1) ** q - (a + softmax(z)[y]) ** q) / q


def nce_agce(z, y, a, q, alpha, beta):
    return alpha * nce(z, y) + beta * agce(z, y, a, q)


def aul(z, y, a, q):
    return ((a - softmax(z)[y]) ** q - (a - 1) ** q) / q


def ael(z, y, a):
    return np.exp(-softmax(z)[y] / a)


def phuber_ce(z, y, tau):
    p = softmax(z)[y]
    return 1 + np.log(tau) - tau * p if p.real <= 1 / tau else -np.log(p)


def entropy(p):
    kept = p[p.real > 0]
    return -(kept * np.log(kept)).sum()


def js(z, y, pi):
    p, label = softmax(z), np.eye(len(z))[y]
    mixed = entropy(pi * label + (1 - pi) * p)
    divergence = mixed - pi * entropy(label) - (1 - pi) * entropy(p)
    return divergence / -((1 - pi) * np.log(1 - pi))


def ce_sr(z, y, temperature, p, regularization_weight):
    s = softmax(z / np.sqrt((z * z).sum()) / temperature)
    return -np.log(s[y]) + regularization_weight * (s**p).sum()


def tempered_log(u, t):
    return np.log(u) if t == 1 else (u ** (1 - t) - 1) / (1 - t)


def tempered_exp(u, t):
    return np.exp(u) if t == 1 else (1 + (1 - t) * u) ** (1 / (1 - t))


def bi_tempered(z, y, t1, t2, num_iters):
    below = z - z[z.real.argmax()]
    current = below
    for _ in range(num_iters):
        current = below * tempered_exp(current, t2).sum() ** (1 - t2)
    normalizer = -tempered_log(1 / tempered_exp(current, t2).sum(), t2)
    p = tempered_exp(below - normalizer, t2)
    return -tempered_log(p[y], t1) - (1 - (p ** (2 - t1)).sum()) / (2 - t1)


def soft_bootstrapping(z, y, beta):
    return beta * ce(z, y) + (1 - beta) * entropy(softmax(z))


def hard_bootstrapping(z, y, beta):
    return beta * ce(z, y) + (1 - beta) * ce(z, z.real.argmax())


def matrix_of(rate, num_classes):
    return (1 - rate) * np.eye(num_classes) + rate / num_classes


def forward_correction(z, y, noise_rate=None, transition_matrix=None):
    if transition_matrix is None:
        transition_matrix = matrix_of(noise_rate, len(z))
    return -np.log((softmax(z) @ transition_matrix)[y])


def backward_correction(z, y, noise_rate=None, transition_matrix=None):
    if transition_matrix is None:
        transition_matrix = matrix_of(noise_rate, len(z))
    return (np.linalg.inv(transition_matrix) @ -np.log(softmax(z)))[y]


def elr(z, y, targets, regularization_weight):
    return ce(z, y) + regularization_weight * np.log(1 - (softmax(z) * targets).sum())


CASES = (
    (rce, {}),
    (sce, {"alpha": 0.1, "beta": 1.0}),
    (sce, {"alpha": 10.0, "beta": 0.1}),
    (nce, {}),
    (nce_rce, {"alpha": 10.0, "beta": 0.1}),
    (focal, {"gamma": 0.5}),
    (focal, {"gamma": 2.0}),
    (nfl, {"gamma": 0.5}),
    (nfl, {"gamma": 2.0}),
    (nnce, {"min_probability": 1e-7}),
    (nnce, {"min_probability": 0.05}),
    (anl_ce, {"alpha": 5.0, "beta": 5.0, "min_probability": 1e-7}),
    (taylor_ce, {"order": 2}),
    (taylor_ce, {"order": 18}),
    (agce, {"a": 1e-5, "q": 0.5}),
    (agce, {"a": 3.0, "q": 0.7}),
    (nce_agce, {"a": 1.8, "q": 3.0, "alpha": 10.0, "beta": 0.1}),
    (aul, {"a": 5.5, "q": 3.0}),
    (aul, {"a": 1.5, "q": 0.9}),
    (ael, {"a": 2.5}),
    (phuber_ce, {"tau": 10.0}),
    (phuber_ce, {"tau": 2.0}),
    (js, {"pi": 0.1}),
    (js, {"pi": 0.5}),
    (js, {"pi": 0.9}),
    (ce_sr, {"temperature": 0.5, "p": 0.1, "regularization_weight": 1.2}),
    (ce_sr, {"temperature": 0.5, "p": 0.01, "regularization_weight": 8.0}),
    (bi_tempered, {"t1": 0.8, "t2": 1.2, "num_iters": 5}),
    (bi_tempered, {"t1": 0.5, "t2": 3.0, "num_iters": 5}),
    (bi_tempered, {"t1": 1.0, "t2": 1.0, "num_iters": 0}),
    (soft_bootstrapping, {"beta": 0.95}),
    (hard_bootstrapping, {"beta": 0.8}),
    (forward_correction, {"noise_rate": 0.4}),
    (backward_correction, {"noise_rate": 0.4}),
    (forward_correction, {"transition_matrix": None}),
    (backward_correction, {"transition_matrix": None}),
    (elr, {"targets": None, "regularization_weight": 3.0}),
)


def gradient(loss, z, y, options):
    steps = z + 1j * STEP * np.eye(len(z))
    return np.array([loss(step, y, **options).imag / STEP for step in steps])


def main():
    rng = np.random.default_rng(20230321)
    batch, num_classes = 6, 10
    logits = rng.normal(0, 2, (batch, num_classes))
    labels = rng.integers(num_classes, size=batch)
    matrix = rng.dirichlet(np.full(num_classes, 0.3), num_classes)
    matrix = 0.7 * np.eye(num_classes) + 0.3 * matrix
    targets = 0.9 * rng.dirichlet(np.ones(num_classes), batch)
    table = {
        "logits": logits,
        "labels": labels,
        "transition_matrix": matrix,
        "targets": targets,
    }
    for loss, options in CASES:
        name = ",".join(k if v is None else f"{k}={v}" for k, v in options.items())
        values, gradients = [], []
        for row, (z, y) in enumerate(zip(logits, labels, strict=True)):
            full = dict(options)
            if "transition_matrix" in full:
                full["transition_matrix"] = matrix
            if "targets" in full:
                full["targets"] = targets[row]
            values.append(loss(z.astype(complex), y, **full).real)
            gradients.append(gradient(loss, z, y, full))
        key = f"{loss.__name__}|{name}"
        table |= {f"{key}::value": values, f"{key}::gradient": gradients}
    np.savez_compressed(Path(__file__).with_name("losses_family.npz"), **table)


if __name__ == "__main__":
    main()
