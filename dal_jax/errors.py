"""The one exception that a user's wrong input raises, and how its line is worded.

Commands print it as a single line and end with exit status 2; whoever calls the
library sees an ordinary ``ValueError``.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong input: one line on what is wrong, what was expected, what to do."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a name that is not among the known ones.

    Args:
      what: the kind of thing that was named, as the user would call it.
      name: what was given.
      known: every name that would have been accepted.

    Returns:
      The exception to raise; its line names the nearest known name, then all.

    Example:
      >>> print(unknown_name("loss", "gcee", ["ce", "gce", "dal"]))
      unknown loss 'gcee': did you mean 'gce'? Known: ce, dal, gce
    """
    known = sorted(known)
    hint = nearest_hint(name, known)
    return InputError(f"unknown {what} {name!r}:{hint} Known: {', '.join(known)}")


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Returns the words that name the nearest of the known names, if one is near.

    Example:
      >>> nearest_hint("q_ned", ["q_start", "q_end"])
      " did you mean 'q_end'?"
    """
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f" did you mean {nearest[0]!r}?" if nearest else ""
