"""The family against the figures of the code that the paper's authors released."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from dal_jax import losses

# Made by tests/golden/make_released.py.
ORACLE = Path(__file__).parents[1] / "golden" / "released.npz"
NAMES = "rce nce sce nce_rce taylor_ce agce nce_agce js ce_sr bi_tempered ce mae gce"
RENAMED = {
    ("ce_sr", "lam"): "regularization_weight",
    ("ce_sr", "tau"): "temperature",
}
# The released code holds log 1e-4 in single precision.
RELEASED_LOG = float(np.log(np.float32(1e-4)))
# Its clamp, of probabilities and of what is made of them.
CLAMP = 1e-6


def released(name):
    """Yields setting, hyper-parameters, value, gradient."""
    table = np.load(ORACLE)
    for key in table:
        setting, *rest = key.split("::")
        if rest[-1] != "value" or rest[0].partition("|")[0] != name:
            continue
        options = {}
        for option in filter(None, rest[0].partition("|")[2].split(",")):
            hyper, _, number = option.partition("=")
            whole = hyper in ("order", "num_iters")
            hyper = RENAMED.get((name, hyper), hyper)
            options[hyper] = int(number) if whole else float(number)
        inputs = table[f"{setting}::logits"], table[f"{setting}::labels"]
        yield setting, options, inputs, table[key], table[key[: -len("value")] + "grad"]


@functools.cache
def compiled(name, whole):
    @jax.jit
    def both(numbers, logits, labels):
        loss = losses.make(name, **numbers, **dict(whole))
        value, back = jax.vjp(lambda z: loss(z, labels, 0), logits)
        return value, back(jnp.ones_like(value))[0]

    return both


def ours(name, options, logits, labels):
    whole = {key: value for key, value in options.items() if isinstance(value, int)}
    numbers = {key: value for key, value in options.items() if key not in whole}
    both = compiled(name, tuple(whole.items()))
    return tuple(map(np.asarray, both(numbers, logits, labels)))


def unclamped(name, p, labels):
    """The rows on which the released code's clamps and epsilons do nothing."""
    own = p[np.arange(len(p)), labels]
    if name in ("rce", "sce", "nce_rce"):
        return p.min(-1) > CLAMP
    if name == "js":
        # What is clamped is the mixture, at least a tenth of the prediction.
        return p.min(-1) > 10 * CLAMP
    if name in ("mae", "gce", "taylor_ce"):
        return own > 10 * CLAMP
    return np.ones(len(p), bool)


@pytest.mark.parametrize("name", NAMES.split())
def test_equals_the_released_code_where_it_clamps_nothing(name, x64):
    compared = 0
    for setting, options, inputs, value, gradient in released(name):
        expected_value, expected_gradient = value, gradient
        mine = ours(name, options, *inputs)
        p = scipy.special.softmax(inputs[0], -1)
        rows = unclamped(name, p, inputs[1])
        compared += rows.sum()
        atol = np.full(len(p), 1e-9)
        if name in ("rce", "sce", "nce_rce"):
            weight = options.get("beta", 1.0)
            own = p[np.arange(len(p)), inputs[1]]
            excess = weight * (1 - own) * (-RELEASED_LOG + np.log(1e-4))
            expected_value = value - excess
            scale = RELEASED_LOG / np.log(1e-4) - 1
            slope = weight * -np.log(1e-4) * scale * own[:, None]
            labelled = np.eye(p.shape[-1])[inputs[1]]
            expected_gradient = gradient - slope * (p - labelled)
        if name in ("js", "bi_tempered"):
            # A constant: of clamped labels and a divisor in single precision, and of
            # the epsilon in the logarithm of the label.
            atol = np.full(len(p), 2e-6)
            offset = (mine[0] - value)[rows]
            if len(offset):
                np.testing.assert_allclose(
                    offset, offset[0], atol=1e-9 if name == "bi_tempered" else 2e-8
                )
        difference = np.abs(mine[0] - expected_value)
        assert np.all(difference[rows] < atol[rows]), (setting, options)
        np.testing.assert_allclose(
            mine[1][rows], expected_gradient[rows], atol=1e-9, rtol=1e-9
        )
    assert compared > 80


@pytest.mark.parametrize("name", NAMES.split())
def test_stays_within_the_size_of_the_clamps(name, x64):
    for _, options, inputs, value, _ in released(name):
        if name == "gce":
            # A hopeless example is as bad as a probability of 1e-6: no bound there.
            continue
        num_classes = inputs[0].shape[-1]
        log_clamp = -np.log(CLAMP)
        size = CLAMP * {
            "taylor_ce": options.get("order", 1),
            "js": log_clamp * num_classes,
            "rce": 10 * num_classes,
            "sce": 10 * num_classes * options.get("beta", 1.0),
            "nce_rce": 10 * num_classes * options.get("beta", 1.0),
        }.get(name, 2)
        mine, _ = ours(name, options, *inputs)
        np.testing.assert_allclose(mine, value, rtol=0, atol=1.1 * size)
