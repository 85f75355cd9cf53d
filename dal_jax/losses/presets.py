"""Hyper-parameters of the losses by data set; all are published, except ``digits``.

Values without a comment come from the code that Li et al. (2023), arXiv:2303.11562,
released: CIFAR with 150 epochs in batches of 128; mini-WebVision, the first 50 classes,
with 250 epochs in batches of 512. The others come from the code that the authors named
in the comment released, or from their paper where it says so.

``digits`` holds the one loss that does not learn scikit-learn's digits with its
published values. Its value was chosen by accuracy on a fifth of the training set, held
out with noisy labels.
"""

from typing import Any

from dal_jax.errors import InputError, unknown_name

Hyperparameters = dict[str, Any]

_PRESETS: dict[str, dict[str, Hyperparameters]] = {
    "cifar10": {
        "dal": {"q_start": 0.6, "q_end": 1.5},
        "gce": {"q": 0.7},
        # Wang et al. (2019), arXiv:1908.06112, the paper.
        "sce": {"alpha": 0.1, "beta": 1.0},
        # Ma et al. (2020), arXiv:2006.13554.
        "nce_rce": {"alpha": 1.0, "beta": 1.0},
        "nfl": {"gamma": 0.5},
        # Zhou et al. (2021), arXiv:2106.03110.
        "agce": {"a": 0.6, "q": 0.6},
        "nce_agce": {"a": 6.0, "q": 1.5, "alpha": 1.0, "beta": 4.0},
        "aul": {"a": 5.5, "q": 3.0},
        "ael": {"a": 2.5},
        # Zhou et al. (2021), arXiv:2108.00192.
        "ce_sr": {
            "temperature": 0.5,
            "p": 0.1,
            "regularization_weight": 1.2,
            "regularization_growth": 1.03,
        },
        # Ye et al. (2023), NeurIPS, without the L1 penalty of 5e-5 on the weights.
        "anl_ce": {"alpha": 5.0, "beta": 5.0, "min_probability": 1e-7},
        # Menon et al. (2020), ICLR, choose between 2 and 10 for each data set; which
        # for which is from the code of the ML Reproducibility Challenge 2020.
        "phuber_ce": {"tau": 2.0},
        # Liu et al. (2020), arXiv:2007.00151, symmetric noise.
        "elr": {"beta": 0.7, "regularization_weight": 3.0},
    },
    "cifar100": {
        "dal": {"q_start": 0.6, "q_end": 1.5},
        "gce": {"q": 0.7},
        "sce": {"alpha": 10.0, "beta": 0.1},
        "nce_rce": {"alpha": 10.0, "beta": 0.1},
        # As in Zhou et al. (2021), arXiv:2106.03110, who take the agce of CIFAR-10.
        "nce_agce": {"a": 1.8, "q": 3.0, "alpha": 10.0, "beta": 0.1},
        "taylor_ce": {"order": 18},
        "agce": {"a": 3.0, "q": 0.7},
        "bi_tempered": {"t1": 0.7, "t2": 1.5, "num_iters": 5},
        # As in Kim et al. (2019), arXiv:1908.07387.
        "nlnl": {"num_negatives": 110},
        "ce_sr": {
            "temperature": 0.5,
            "p": 0.01,
            "regularization_weight": 8.0,
            "regularization_growth": 1.02,
        },
        "js": {"pi": 0.5},
        # From here on as for CIFAR-10; the L1 penalty of anl_ce is 5e-7.
        "nfl": {"gamma": 0.5},
        "aul": {"a": 5.5, "q": 3.0},
        "ael": {"a": 2.5},
        "anl_ce": {"alpha": 10.0, "beta": 1.0, "min_probability": 1e-7},
        "phuber_ce": {"tau": 10.0},
        "elr": {"beta": 0.9, "regularization_weight": 7.0},
    },
    "webvision": {
        "dal": {"q_start": 0.4, "q_end": 1.5},
        "gce": {"q": 0.7},
        "sce": {"alpha": 50.0, "beta": 0.1},
        "nce_rce": {"alpha": 50.0, "beta": 0.1},
        "agce": {"a": 1e-5, "q": 0.5},
        "ce_sr": {
            "temperature": 0.5,
            "p": 0.01,
            "regularization_weight": 2.0,
            "regularization_growth": 1.02,
        },
        "js": {"pi": 0.1},
        # Ye et al. (2023), without the L1 penalty of 5e-6 on the weights.
        "anl_ce": {"alpha": 20.0, "beta": 1.0, "min_probability": 1e-7},
    },
    "digits": {
        # Chosen from 1e-7, 1e-3, 1e-2 and 0.05: with the published value the gradient
        # is a fourteenth of the mean absolute error's.
        "nnce": {"min_probability": 0.05},
    },
}
_WITHOUT = frozenset({"ce", "mae", "nce", "rce"})


def names() -> tuple[str, ...]:
    """Returns the names of the presets.

    Example:
      >>> names()
      ('cifar10', 'cifar100', 'digits', 'webvision')
    """
    return tuple(sorted(_PRESETS))


def holds(preset: str, loss: str) -> bool:
    """Whether a preset holds hyper-parameters for a loss.

    Raises:
      InputError: if there is no such preset.

    Example:
      >>> holds("digits", "nnce"), holds("digits", "ce")
      (True, False)
    """
    if preset not in _PRESETS:
        raise unknown_name("preset", preset, _PRESETS)
    return loss in _PRESETS[preset]


def preset_values(preset: str, loss: str) -> dict[str, Any]:
    """Returns the hyper-parameters that a preset holds for a loss, by name.

    Raises:
      InputError: if there is no such preset, or if nothing is published for the loss.

    Example:
      >>> preset_values("webvision", "dal"), preset_values("webvision", "ce")
      ({'q_start': 0.4, 'q_end': 1.5}, {})
    """
    if not holds(preset, loss) and loss not in _WITHOUT:
        raise InputError(
            f"preset {preset!r} holds nothing for loss {loss!r}: expected one of "
            f"{', '.join(sorted(_PRESETS[preset]))}; give its hyper-parameters instead"
        )
    return dict(_PRESETS[preset].get(loss, {}))
