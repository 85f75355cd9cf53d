"""Published hyper-parameters of the losses, by data set.

All values are those of the code that Li et al. (2023), arXiv:2303.11562, released for
their comparison; it takes those of the other losses from their own papers.
"""

from typing import Any

from dal_jax.errors import unknown_name

_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # CIFAR-10 and 100: 150 epochs, batch 128.
    "cifar": {
        "dal": {"q_start": 0.6, "q_end": 1.5},
        "gce": {"q": 0.7},
    },
    # mini-WebVision, the first 50 classes: 250 epochs, batch 512.
    "webvision": {
        "dal": {"q_start": 0.4, "q_end": 1.5},
        "gce": {"q": 0.7},
    },
}


def names() -> tuple[str, ...]:
    """Returns the names of the presets.

    Example:
      >>> names()
      ('cifar', 'webvision')
    """
    return tuple(sorted(_PRESETS))


def preset_values(preset: str, loss: str) -> dict[str, Any]:
    """Returns the hyper-parameters that a preset holds for a loss.

    Args:
      preset: one of :func:`names`.
      loss: the name of a loss.

    Returns:
      Hyper-parameters by name; none for a loss that has none, such as ``"ce"``.

    Raises:
      InputError: if there is no such preset.

    Example:
      >>> preset_values("webvision", "dal")
      {'q_start': 0.4, 'q_end': 1.5}
    """
    if preset not in _PRESETS:
        raise unknown_name("preset", preset, _PRESETS)
    return dict(_PRESETS[preset].get(loss, {}))
