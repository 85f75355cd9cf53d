"""The interval of every hyper-parameter within which its loss is defined.

:func:`check_ranges` compares plain numbers with it when a loss is made by name, so that
a wrong one ends a run before anything is written. The losses themselves never look at
values, which may be traced; what is wrong with them then is not noticed.
"""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

from dal_jax.errors import InputError


class Range(NamedTuple):
    """An interval; ``open`` names the ends that do not belong to it."""

    least: float
    most: float = math.inf
    open: str = ""

    def __contains__(self, value: object) -> bool:
        """Whether a number lies in the interval."""
        if not isinstance(value, Real):
            return False
        number = float(value)
        above = number > self.least or (number == self.least and "(" not in self.open)
        below = number < self.most or (number == self.most and ")" not in self.open)
        return above and below

    def __str__(self) -> str:
        """The interval in words."""
        low = f"above {self.least:g}" if "(" in self.open else f"{self.least:g} or more"
        high = "below" if ")" in self.open else "at most"
        if self.least == -math.inf:
            return f"{high} {self.most:g}"
        return low if self.most == math.inf else f"{low} and {high} {self.most:g}"


_WEIGHT = Range(0)
_FRACTION = Range(0, 1)
_RANGES: dict[str, Range] = {
    "a": Range(0),
    "alpha": _WEIGHT,
    "beta": _WEIGHT,
    "gamma": Range(0),
    "min_probability": Range(0, 1, "()"),
    "noise_rate": Range(0, 1, ")"),
    "num_iters": Range(0),
    "num_negatives": Range(1),
    "order": Range(1),
    "p": Range(0, 1, "("),
    "pi": Range(0, 1, "()"),
    "q": Range(0),
    "q_end": Range(0),
    "q_start": Range(0),
    "regularization_growth": Range(0, open="("),
    "regularization_weight": _WEIGHT,
    "t1": Range(-math.inf, 2, ")"),
    "t2": Range(1),
    "tau": Range(1),
    "temperature": Range(0, open="("),
}
_RANGES_OF_ONE: dict[tuple[str, str], Range] = {
    ("ael", "a"): Range(0, open="("),
    ("aul", "a"): Range(1, open="("),
    ("aul", "q"): Range(0, open="("),
    ("elr", "beta"): _FRACTION,
    ("hard_bootstrapping", "beta"): _FRACTION,
    ("soft_bootstrapping", "beta"): _FRACTION,
}


def check_ranges(loss: str, hyperparameters: Mapping[str, Any]) -> None:
    """Checks the hyper-parameters that are plain numbers.

    Args:
      loss: the name of a loss.
      hyperparameters: its hyper-parameters by name; schedules, arrays and traced
        values pass.

    Raises:
      InputError: if a number is out of its range, or not a number.

    Example:
      >>> check_ranges("gce", {"q": 0.7})
    """
    for name, value in hyperparameters.items():
        known = _RANGES_OF_ONE.get((loss, name), _RANGES.get(name))
        if known is None or not isinstance(value, Real):
            continue
        if value not in known:
            raise InputError(
                f"{name}={value} is out of range for loss {loss!r}: expected {known}"
            )
