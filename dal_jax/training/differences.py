"""How the configuration of a stored run differs from the requested one."""

import json
from collections.abc import Mapping
from typing import Any


def differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Returns a phrase for each field in which two nested dictionaries differ.

    Args:
      stored: as JSON gave it back.
      given: what is asked for now.
      defaults: what a field that is not in ``stored`` counts as, for it may have come
        to the program later.

    Returns:
      Dotted names with both values, sorted.

    Example:
      >>> differences({"noise": {"rate": 0.4}}, {"noise": {"rate": 0.2}, "new": 1},
      ...             {"new": 1})
      ['noise.rate was 0.4, now 0.2']
    """
    old, new, default = _flat(stored), _flat(given), _flat(defaults)
    return [
        f"{name} was {before!r}, now {now!r}"
        for name in sorted(old.keys() | new.keys())
        if (before := old.get(name, default.get(name)))
        != (now := new.get(name, default.get(name)))
        and (name in new or not _passing(name))
    ]


def _passing(name: str) -> bool:
    # What another version of JAX wrote of a training step says nothing of this one's.
    return name.startswith("objects.training_step.")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves by dotted names, as JSON holds them.

    A hyper-parameter of the loss that is None is one that was not given.
    """
    if not isinstance(tree, Mapping):
        return {prefix: json.loads(json.dumps(tree))}
    leaves = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return {k: v for k, v in leaves.items() if v is not None or k[:5] != "loss."}
