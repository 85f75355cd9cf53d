"""Makes dal.npz: Dynamics-Aware Loss by numpy alone, from the paper's formulas.

    python tests/golden/make_dal.py

Independent of the package on purpose: probabilities are formed, not their logarithms,
and the gradient is a complex-step derivative of the value (Martins et al., 2003), not
a formula. Everything is float64, and the logits are moderate, so nothing is lost.
"""

from pathlib import Path

import numpy as np

Q = np.array([1e-6, 0.1, 0.6, 1.0, 1.2, 1.5, 2.0])
BOOTSTRAP_WEIGHT = np.array([0.0, 0.0, 0.0, 0.0, 0.4, 1.0, 0.5])
EXAMPLES = {2: 6, 10: 6, 1000: 2}


def dal(logits: np.ndarray, labels: np.ndarray, q: float, weight: float) -> np.ndarray:
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    fit = (1 - p[np.arange(len(labels)), labels] ** q) / q
    entropy = -(p * np.log(p)).sum(-1)
    return fit + weight * entropy / (q * np.log(logits.shape[-1]))


def gradient(
    logits: np.ndarray, labels: np.ndarray, q: float, weight: float
) -> np.ndarray:
    columns = []
    for k in range(logits.shape[-1]):
        stepped = logits.astype(complex)
        stepped[:, k] += 1e-100j
        columns.append(dal(stepped, labels, q, weight).imag / 1e-100)
    return np.stack(columns, -1)


def main() -> None:
    rng = np.random.default_rng(20230321)
    table = {"q": Q, "bootstrap_weight": BOOTSTRAP_WEIGHT}
    for num_classes, examples in EXAMPLES.items():
        logits = rng.normal(0, 2, (examples, num_classes))
        labels = rng.integers(num_classes, size=examples)
        pairs = list(zip(Q, BOOTSTRAP_WEIGHT, strict=True))
        table |= {
            f"K{num_classes}::logits": logits,
            f"K{num_classes}::labels": labels,
            f"K{num_classes}::value": np.stack(
                [dal(logits, labels, *pair) for pair in pairs]
            ),
            f"K{num_classes}::gradient": np.stack(
                [gradient(logits, labels, *pair) for pair in pairs]
            ),
        }
    np.savez_compressed(Path(__file__).with_name("dal.npz"), **table)


if __name__ == "__main__":
    main()
