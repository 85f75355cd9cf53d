"""The cells of the benchmarks' tables."""

from collections.abc import Sequence

import numpy as np


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Returns mean ± sample standard deviation of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = f"{np.mean(known):.{digits}f}"
    return text + (f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else "")
