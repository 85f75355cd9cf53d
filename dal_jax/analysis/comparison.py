"""Statistics of a comparison: a list of rows in, means, intervals, tests and ranks out.

A row is any mapping, such as a line of ``results.csv``, with keys for what is compared
(by default ``loss``), under which condition (``noise``), in which repetition
(``seed``), and a score of which more is better. A score that is ``None``, empty or nan
is that of a repetition that failed. Repetitions are paired: the same seed stands for
the same labels and, as far as that goes, the same initial values.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

from dal_jax.errors import unknown_name

Row = Mapping[str, Any]
Test = Literal["t", "wilcoxon"]
TESTS = {"t": "paired t-test", "wilcoxon": "exact Wilcoxon signed-rank test"}
LEVEL = 0.05
_RESAMPLES = 9999


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its spread.

    Attributes:
      mean: of the values.
      sd: their sample standard deviation, nan for fewer than two.
      low: the lower end of the 95 % bootstrap interval of the mean, nan likewise.
      high: its upper end.
      count: of the values.
    """

    mean: float
    sd: float
    low: float
    high: float
    count: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method under one condition.

    Attributes:
      estimate: of its score.
      failed: repetitions that failed.
      best: whether its mean is the highest under the condition; ``None`` where it has
        no competitor.
      p_value: of the paired test against the best, corrected by Holm over the
        condition's comparisons; nan for the best itself, and with fewer than two pairs.
      pairs: repetitions that the test had.
    """

    estimate: Estimate
    failed: int
    best: bool | None
    p_value: float
    pairs: int

    @property
    def tied(self) -> bool:
        """Whether it is not the best of several and cannot be told from it."""
        return self.best is False and not self.p_value < LEVEL


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods under conditions.

    Attributes:
      methods: in order of appearance.
      conditions: likewise.
      cells: by ``(method, condition)``, where there is a score.
      ranks: of each method, 1 the best, averaged over the conditions; ``{}`` for a
        single method, and where no repetition has all methods under all conditions.
      test: which paired test.
    """

    methods: tuple[str, ...]
    conditions: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    ranks: Mapping[str, Estimate]
    test: Test


def compare(
    rows: Iterable[Row],
    score: str = "test_accuracy_last",
    *,
    method: str = "loss",
    condition: str = "noise",
    repetition: str = "seed",
    test: Test = "t",
) -> Comparison:
    """Returns the statistics of a score.

    Args:
      rows: one a run.
      score: the key of what is compared; more is better.
      method: the key of what competes.
      condition: the key of what it competes under.
      repetition: the key of what pairs the rows.
      test: ``"t"``, which takes differences to be normal, or ``"wilcoxon"``, which
        takes them to be symmetric and cannot reach .05 with fewer than six pairs.

    Example:
      >>> rows = [{"loss": loss, "noise": "a", "seed": seed, "score": value + seed / 50}
      ...         for loss, value in (("ce", 0.5), ("dal", 0.9)) for seed in range(4)]
      >>> rows[0]["score"] += 0.01
      >>> found = compare(rows, "score")
      >>> found.cells["dal", "a"].best, found.cells["ce", "a"].tied
      (True, False)
      >>> found.ranks["dal"].mean
      1.0
    """
    if test not in TESTS:
        raise unknown_name("test", test, TESTS)
    scores: dict[tuple[str, str], dict[Any, float]] = {}
    for row in rows:
        cell = scores.setdefault((str(row[method]), str(row[condition])), {})
        cell[row[repetition]] = _number(row.get(score))
    methods = tuple(dict.fromkeys(name for name, _ in scores))
    conditions = tuple(dict.fromkeys(name for _, name in scores))
    cells: dict[tuple[str, str], Cell] = {}
    for name in conditions:
        of_condition = {m: scores[m, name] for m in methods if (m, name) in scores}
        for competitor, cell in _cells(of_condition, test).items():
            cells[competitor, name] = cell
    return Comparison(
        methods, conditions, cells, _ranks(scores, methods, conditions), test
    )


def estimate(values: Iterable[float]) -> Estimate:
    """Returns the mean of values, with its 95 % percentile-bootstrap interval.

    Few values make the interval too short, as they say little of the spread.

    Example:
      >>> found = estimate([0.1, 0.2, 0.3, 0.4])
      >>> found.mean, found.low > 0.1, found.high < 0.4
      (0.25, True, True)
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < 2:
        mean = float(known[0]) if len(known) else math.nan
        return Estimate(mean, math.nan, math.nan, math.nan, len(known))
    found = stats.bootstrap(
        (known,), np.mean, method="percentile", n_resamples=_RESAMPLES, rng=0
    ).confidence_interval
    mean, sd = float(np.mean(known)), float(np.std(known, ddof=1))
    return Estimate(mean, sd, float(found.low), float(found.high), len(known))


def paired_p_value(
    one: Mapping[Any, float], other: Mapping[Any, float], test: Test = "t"
) -> tuple[float, int]:
    """Returns the two-sided p-value of paired scores, and how many pairs there are.

    Args:
      one: scores by repetition; those of repetitions that the other lacks are left out.
      other: likewise.
      test: see :func:`compare`.

    Example:
      >>> paired_p_value({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.5, 2: 1.0}, "wilcoxon")
      (0.25, 3)
    """
    both = [key for key in one if key in other]
    differences = np.array([one[key] - other[key] for key in both])
    differences = differences[np.isfinite(differences)]
    count = len(differences)
    if count < 2:
        return math.nan, count
    if not differences.any():
        return 1.0, count
    with warnings.catch_warnings():
        # Differences that are equal leave no variance: the p-value is then 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        if test == "t":
            found: Any = stats.ttest_1samp(differences, 0.0)
        else:
            changed = differences[differences != 0]  # as Wilcoxon has it
            found = stats.wilcoxon(changed, method="exact")
    return float(found.pvalue), count


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Returns p-values corrected for their number by Holm's step-down method.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may be less
    than one before it. What is nan is no test, and stays nan.

    Example:
      >>> holm([0.01, 0.04, 0.03]).tolist()
      [0.03, 0.06, 0.06]
    """
    corrected = np.array(p_values, float)
    known = np.flatnonzero(~np.isnan(corrected))
    order = known[np.argsort(corrected[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(
        np.maximum.accumulate(corrected[order] * factors), 1.0
    )
    return corrected


def least_p_value(pairs: int) -> float:
    """Returns the least two-sided p-value of an exact Wilcoxon test.

    Example:
      >>> least_p_value(5)
      0.0625
    """
    return min(2.0 ** (1 - pairs), 1.0)


def _cells(scores: Mapping[str, Mapping[Any, float]], test: Test) -> dict[str, Cell]:
    estimates = {name: estimate(of.values()) for name, of in scores.items()}
    known = [name for name, of in estimates.items() if of.count]
    best = max(known, key=lambda name: estimates[name].mean, default=None)
    found = {
        name: (math.nan, 0)
        if best is None or name == best
        else paired_p_value(scores[best], of, test)
        for name, of in scores.items()
    }
    corrected = holm([p_value for p_value, _ in found.values()])
    return {
        name: Cell(
            estimates[name],
            failed=sum(map(math.isnan, of.values())),
            best=None if len(scores) == 1 else name == best,
            p_value=float(p_value),
            pairs=found[name][1],
        )
        for (name, of), p_value in zip(scores.items(), corrected, strict=True)
    }


def _ranks(
    scores: Mapping[tuple[str, str], Mapping[Any, float]],
    methods: Sequence[str],
    conditions: Sequence[str],
) -> dict[str, Estimate]:
    """Average ranks over the conditions, whose spread is that over repetitions.

    A repetition that failed ranks last. Only repetitions count that have everything.
    """
    everything = [scores.get((m, c), {}) for c in conditions for m in methods]
    shared = [key for key in everything[0] if all(key in of for of in everything)]
    if not shared or len(methods) == 1:
        return {}
    table = np.array(
        [[[scores[m, c][key] for m in methods] for c in conditions] for key in shared]
    )
    ranks = stats.rankdata(-np.nan_to_num(table, nan=-np.inf), axis=-1)
    averages = ranks.mean(axis=1)  # [repetitions, methods]
    return {m: estimate(averages[:, i].tolist()) for i, m in enumerate(methods)}


def _number(value: Any) -> float:
    return math.nan if value in (None, "") else float(value)
