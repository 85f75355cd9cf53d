"""The page of an audit: one file that works offline, on any screen and on paper."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dal_jax.reporting import figures
from dal_jax.reporting.html import template

# Up to so many classes the matrix is a table that can be read; beyond, a picture.
_MOST_IN_TABLE = 20
# How many examples of a class the table of classes points to.
_MOST_LINKS = 8


@dataclasses.dataclass(frozen=True)
class Example:
    """One suspicious example.

    Attributes:
      rank: its place, 1 the most suspicious.
      given: the number of its given class.
      suggested: of the suggested one.
      score: in [0, 1].
      is_issue: whether it counts as likely wrong.
      history: floating ``[T]``, the given label's probability through training.
      name: a path, or empty.
      content: its input: uint8 ``[H, W, C]`` is shown as a picture, other numbers as
        numbers; ``None`` where it is not at hand.
    """

    rank: int
    given: int
    suggested: int
    score: float
    is_issue: bool
    history: np.ndarray
    name: str = ""
    content: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to do next: a sentence, and the command to copy."""

    text: str
    command: str


@dataclasses.dataclass(frozen=True)
class AuditPage:
    """What the page says.

    Attributes:
      title: what was audited, e.g. the run's directory.
      class_names: ``K`` of them.
      examples: those to show, the most suspicious first.
      class_sizes: integers ``[K]``, examples by given class.
      class_issues: integers ``[K]``, likely wrong ones among them.
      transition_matrix: floating ``[K, K]``, rows the true classes.
      confused_pairs: ``(true, given, expected count)``, the largest first.
      steps: how to go on.
      quality: named numbers, where clean labels are known.
      remark: what the page lacks and why, or empty.
    """

    title: str
    class_names: Sequence[str]
    examples: Sequence[Example]
    class_sizes: np.ndarray
    class_issues: np.ndarray
    transition_matrix: np.ndarray
    confused_pairs: Sequence[tuple[int, int, float]]
    steps: Sequence[Step]
    quality: dict[str, float] = dataclasses.field(default_factory=dict)
    remark: str = ""


def render(page: AuditPage) -> str:
    """Returns the page as HTML that refers to nothing outside itself."""
    names = page.class_names
    return template("label_issues.html").render(
        page=page,
        num_examples=int(page.class_sizes.sum()),
        num_issues=int(page.class_issues.sum()),
        cards=[_card(example, names) for example in page.examples],
        classes=_classes(page),
        pairs=[
            {"true": names[i], "given": names[j], "count": _count(count)}
            for i, j, count in page.confused_pairs
        ],
        matrix=_matrix(page) if len(names) <= _MOST_IN_TABLE else None,
        picture=(
            figures.heat_map(page.transition_matrix)
            if len(names) > _MOST_IN_TABLE
            else None
        ),
        num_names_cut=_common_directory(page.examples),
    )


def _card(example: Example, names: Sequence[str]) -> dict[str, Any]:
    picture, numbers = figures.shown(example.content)
    return {
        "rank": example.rank,
        "given": names[example.given],
        "given_number": example.given,
        "suggested": names[example.suggested],
        "differs": example.suggested != example.given,
        "score": _score(example.score),
        "is_issue": example.is_issue,
        "name": example.name,
        "picture": picture,
        "numbers": numbers,
        "line": figures.line(example.history),
        "first": f"{example.history[0]:.2f}" if len(example.history) else None,
        "last": f"{example.history[-1]:.2f}" if len(example.history) else None,
    }


def _score(score: float) -> str:
    return f"{score:.3f}" if score < 0.9995 else "over 0.999"


def _classes(page: AuditPage) -> list[dict[str, Any]]:
    """Returns a row a class that has examples, most likely wrong labels first."""
    order = np.argsort(-page.class_issues, kind="stable").tolist()
    return [
        {
            "name": page.class_names[k],
            "number": k,
            "size": int(page.class_sizes[k]),
            "issues": int(page.class_issues[k]),
            "share": page.class_issues[k] / page.class_sizes[k],
            "ranks": [e.rank for e in page.examples if e.given == k][:_MOST_LINKS],
        }
        for k in order
        if page.class_sizes[k]
    ]


def _matrix(page: AuditPage) -> list[dict[str, Any]]:
    shares = page.transition_matrix
    others = shares[~np.eye(len(shares), dtype=bool)]
    most = max(np.nanmax(others, initial=0.0), 1e-9)
    return [
        {
            "name": page.class_names[i],
            "cells": [
                {
                    "text": "–" if np.isnan(share) else _share(share),
                    "own": i == j,
                    "strength": 0 if np.isnan(share) else round(share / most, 2),
                }
                for j, share in enumerate(row.tolist())
            ],
        }
        for i, row in enumerate(shares)
    ]


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f}" if percent >= 0.5 or percent == 0 else "<1"


def _count(count: float) -> str:
    return f"{count:,.0f}" if count >= 1.5 else "1"


def _common_directory(examples: Sequence[Example]) -> int:
    """Returns how many characters of their names the examples have in common."""
    directories = {name.rpartition("/")[0] for e in examples if (name := e.name)}
    if not directories:
        return 0
    first, last = min(directories).split("/"), max(directories).split("/")
    same = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        same += len(one) + 1
    return same
