"""Hyper-parameters as the losses declare them: in their signatures, each once.

    def gce(logits, labels, *, q: NonNegative = 0.7, axis=-1, where=None): ...

A keyword argument with a default is a hyper-parameter; its annotation says what kind of
value it takes and, by a :class:`Range`, which numbers. :func:`declared` reads that, so
that a wrong value given by name ends a run before anything is written. The losses
themselves never look at values, which may be traced.
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
    """An interval; ``open`` names the ends that do not belong to it.

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
    """What a signature says of one hyper-parameter.

    Attributes:
      default: the value that it has where none is given.
      kind: the type of its values without their range.
      range: the numbers that it may be; ``None`` where it is no bounded number.
    """

    default: Any
    kind: Any
    range: Range | None

    def check(self, name: str, value: Any, loss: str) -> None:
        """Raises InputError for a value that cannot be meant.

        Args:
          name: that of the hyper-parameter.
          value: arrays, traced values and schedules pass.
          loss: the name of the loss.
        """
        if typing.get_origin(self.kind) is typing.Literal:
            if value not in typing.get_args(self.kind):
                raise unknown_name(name, str(value), typing.get_args(self.kind))
            return
        expected = self._expected(value)
        if expected is not None:
            raise InputError(
                f"{name}={value} is no value for loss {loss!r}: expected {expected}"
            )
        within = self.range
        if within is not None and isinstance(value, Real) and value not in within:
            raise InputError(
                f"{name}={value} is out of range for loss {loss!r}: expected {within}"
            )

    def _expected(self, value: Any) -> str | None:
        """What should have been given instead of a value of another kind."""
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
    """Returns the hyper-parameters that functions declare together, by name.

    Args:
      *functions: their keyword-only arguments with a default count.
      without: names of keyword arguments that are no hyper-parameters.

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
