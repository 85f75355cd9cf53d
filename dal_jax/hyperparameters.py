"""Hyper-parameters, declared once in the signatures of the losses.

    def gce(logits, labels, *, q: NonNegative = 0.7, axis=-1, where=None): ...

A keyword argument with a default is a hyper-parameter. Its annotation gives the kind of
value and, with a :class:`Range`, the allowed numbers. :func:`declared` reads this, so a
wrong value given by name ends a run before anything is written. The losses themselves
do not check the range of real values, because they may be traced.
"""

import inspect
import math
import typing
from collections.abc import Callable
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple

from jax.typing import ArrayLike

from dal_jax.errors import InputError, unknown_name


class Range(NamedTuple):
    """An interval; ``open`` lists the ends that are excluded.

    Example:
      >>> 0.5 in Range(0, 1), 0 in Range(0, 1, "()"), float("nan") in Range(0, 1)
      (True, False, False)
      >>> print(Range(0, 1, "("))
      above 0 and at most 1
    """

    least: float
    most: float = math.inf
    open: str = ""

    def __contains__(self, value: object) -> bool:
        """Whether a number lies in the interval."""
        number = float(typing.cast(float, value))
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


NonNegative = Annotated[ArrayLike, Range(0)]
Positive = Annotated[ArrayLike, Range(0, open="(")]
AtLeastOne = Annotated[ArrayLike, Range(1)]
AboveOne = Annotated[ArrayLike, Range(1, open="(")]
Fraction = Annotated[ArrayLike, Range(0, 1)]
PositiveFraction = Annotated[ArrayLike, Range(0, 1, "(")]
InnerFraction = Annotated[ArrayLike, Range(0, 1, "()")]
Count = Annotated[int, Range(1)]


class Hyperparameter(NamedTuple):
    """What a signature says about one hyper-parameter.

    Attributes:
      default: the default value.
      kind: the type of its values, without their range.
      range: the allowed numbers; ``None`` if it is not a number with bounds.
    """

    default: Any
    kind: Any
    range: Range | None

    def check(self, name: str, value: Any, loss: str) -> None:
        """Raises InputError for a value of the wrong kind or out of range.

        Args:
          name: the hyper-parameter's name.
          value: arrays, traced values and schedules are always accepted.
          loss: the loss's name, for the message.
        """
        if typing.get_origin(self.kind) is typing.Literal:
            if value not in typing.get_args(self.kind):
                raise unknown_name(name, str(value), typing.get_args(self.kind))
            return
        expected = self._expected(value)
        if expected is not None:
            raise InputError(
                f"{name}={value} does not fit loss {loss!r}: expected {expected}"
            )
        within = self.range
        if within is not None and isinstance(value, Real) and value not in within:
            raise InputError(
                f"{name}={value} is out of range for loss {loss!r}: expected {within}"
            )

    def _expected(self, value: Any) -> str | None:
        """Returns what was expected if a value is of the wrong kind, else None."""
        is_flag = isinstance(value, bool)
        if self.kind is bool:
            return None if is_flag else "True or False"
        if self.kind is int:
            whole = isinstance(value, Integral) and not is_flag
            return None if whole else "a whole number"
        if self.range is None:
            return "an array" if is_flag or isinstance(value, str) else None
        is_number = isinstance(value, Real) and not is_flag
        computes = callable(value) or hasattr(value, "dtype")
        return None if is_number or computes else "a number"


def declared(
    *functions: Callable[..., Any], without: tuple[str, ...] = ()
) -> dict[str, Hyperparameter]:
    """Returns the hyper-parameters that some functions declare, by name.

    Args:
      *functions: hyper-parameters are their keyword-only arguments with a default.
      without: names of keyword arguments that are not hyper-parameters.

    Example:
      >>> def loss(logits, labels, *, q: NonNegative = 0.7, axis=-1): ...
      >>> declared(loss, without=("axis",))["q"].default
      0.7
    """
    return {
        parameter.name: _hyperparameter(parameter)
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is not parameter.empty
        and parameter.name not in without
    }


def _hyperparameter(parameter: inspect.Parameter) -> Hyperparameter:
    kind, ranges = parameter.annotation, []
    if typing.get_origin(kind) is Annotated:
        kind, *notes = typing.get_args(kind)
        ranges = [note for note in notes if isinstance(note, Range)]
    return Hyperparameter(parameter.default, kind, ranges[0] if ranges else None)
