"""Progress bars: a widget in a notebook, a line on standard error elsewhere."""

import os
import sys
import warnings
from typing import Any


def progress_bar(**options: Any) -> Any:
    """Returns a bar of tqdm, which draws a widget in notebooks that have ipywidgets.

    Where nobody watches, a bar on standard error is drawn every five seconds only.

    Args:
      **options: of ``tqdm.tqdm``.

    Example:
      >>> with progress_bar(total=3, disable=True) as bar:
      ...     bar.update(3)
    """
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        # A notebook without ipywidgets gets a line of text, without a warning.
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    watched = "ipykernel" in sys.modules or os.isatty(2)
    options.setdefault("mininterval", 0.1 if watched else 5.0)
    return tqdm(**options)
