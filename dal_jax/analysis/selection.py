"""Which of several settings of a method to take, and what that choice costs."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from dal_jax.analysis.comparison import Estimate, Row, estimate


@dataclasses.dataclass(frozen=True)
class Choice:
    """The setting that was chosen for a method under a condition.

    Attributes:
      method: which.
      condition: under which.
      chosen: the setting with the highest mean of what chooses.
      by: that mean.
      score: of the chosen setting.
      best: the setting with the highest mean score, which nobody can know in advance.
      best_score: its mean.
      cost: how much higher its score is, over the repetitions that both have.
    """

    method: str
    condition: str
    chosen: Any
    by: float
    score: Estimate
    best: Any
    best_score: float
    cost: Estimate


def choose(
    rows: Iterable[Row],
    *,
    setting: str = "method",
    method: str = "loss",
    condition: str = "noise",
    repetition: str = "seed",
    by: str = "validation_accuracy_last",
    score: str = "test_accuracy_last",
) -> list[Choice]:
    """Chooses a setting for each method and condition, by its mean over repetitions.

    A setting that lacks a repetition that another one has is not chosen: it failed.

    Args:
      rows: one a run.
      setting: the key of what is chosen.
      method: the key of what it is chosen for.
      condition: the key of what it is chosen under.
      repetition: the key of what is averaged over.
      by: the key of what chooses; more is better.
      score: the key of what the choice is judged by.

    Example:
      >>> rows = [{"loss": "gce", "noise": "a", "seed": 0, "method": f"q={q}",
      ...          "validation_accuracy_last": v, "test_accuracy_last": t}
      ...         for q, v, t in ((0.5, 0.6, 0.8), (0.7, 0.5, 0.9))]
      >>> choice = choose(rows)[0]
      >>> choice.chosen, choice.best, round(choice.cost.mean, 3)
      ('q=0.5', 'q=0.7', 0.1)
    """
    groups: dict[tuple[str, str], dict[Any, dict[Any, tuple[float, float]]]] = {}
    for row in rows:
        if row.get(by) is not None and row.get(score) is not None:
            of_method = groups.setdefault((row[method], row[condition]), {})
            of_setting = of_method.setdefault(row[setting], {})
            of_setting[row[repetition]] = row[by], row[score]
    choices = []
    for (name, under), settings in groups.items():
        most = max(map(len, settings.values()))
        whole = {k: v for k, v in settings.items() if len(v) == most}
        means = {k: np.mean(list(v.values()), axis=0) for k, v in whole.items()}
        chosen = max(means, key=lambda k: means[k][0])
        best = max(means, key=lambda k: means[k][1])
        both = whole[chosen].keys() & whole[best].keys()
        choices.append(
            Choice(
                name,
                under,
                chosen,
                float(means[chosen][0]),
                estimate(value for _, value in whole[chosen].values()),
                best,
                float(means[best][1]),
                estimate(whole[best][k][1] - whole[chosen][k][1] for k in sorted(both)),
            )
        )
    return choices


def chosen_rows(
    rows: Iterable[Row],
    choices: Iterable[Choice],
    *,
    setting: str = "method",
    method: str = "loss",
    condition: str = "noise",
) -> list[Row]:
    """Returns the rows of the settings that were chosen.

    Example:
      >>> nothing = estimate([])
      >>> choice = Choice("gce", "a", "q=1", 0.6, nothing, "q=1", 0.8, nothing)
      >>> rows = [{"loss": "gce", "noise": "a", "method": m} for m in ("q=1", "q=2")]
      >>> chosen_rows(rows, [choice])
      [{'loss': 'gce', 'noise': 'a', 'method': 'q=1'}]
    """
    chosen = {(c.method, c.condition, c.chosen) for c in choices}
    return [r for r in rows if (r[method], r[condition], r[setting]) in chosen]
