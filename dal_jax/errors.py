"""The one exception for wrong input, and the wording of its line.

Commands print it as a single line and end with exit status 2. A caller of the library
sees an ordinary ``ValueError``.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong input: one line on what is wrong, what was expected, what to do."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for an unknown name.

    Args:
      what: the kind of thing that was named, as the user would call it.
      name: what was given.
      known: every accepted name.

    Returns:
      The exception to raise. Its line gives the nearest known name, then all of them.

    Example:
      >>> print(unknown_name("loss", "gcee", ["ce", "gce", "dal"]))
      unknown loss 'gcee': did you mean 'gce'? Known: ce, dal, gce
    """
    known = sorted(known)
    hint = nearest_hint(name, known)
    return InputError(f"unknown {what} {name!r}:{hint} Known: {', '.join(known)}")


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the nearest known name, or nothing if none is close.

    Example:
      >>> nearest_hint("q_ned", ["q_start", "q_end"])
      " did you mean 'q_end'?"
    """
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f" did you mean {nearest[0]!r}?" if nearest else ""
