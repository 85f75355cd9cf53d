"""What the page of a run's audit says."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from dal_jax import data
from dal_jax.analysis import LabelIssues
from dal_jax.audit.run import Audited, positions_in
from dal_jax.command_line import quoted, train_command
from dal_jax.data.contents import contents_of
from dal_jax.errors import InputError
from dal_jax.reporting.page import AuditPage, Example, Step

# Of every class the page shows so many issues, even if others are more suspicious.
_OF_EACH_CLASS = 3


def make_page(
    audit: Audited, top: int, say: Callable[[str], None] = lambda line: None
) -> AuditPage:
    """Returns what the page says."""
    issues, num_classes = audit.issues, len(audit.class_names)
    shown = _shown(issues, top)
    contents, remark = _contents(audit, shown)
    if remark:
        say(remark)
    rank = issues.rank
    examples = [
        Example(
            rank=int(rank[i]) + 1,
            given=int(issues.given[i]),
            suggested=int(issues.suggested[i]),
            score=float(issues.score[i]),
            is_issue=bool(issues.is_issue[i]),
            history=audit.history[i] / 255,
            name="" if audit.names is None else os.fsdecode(audit.names[i]),
            content=content,
        )
        for i, content in zip(shown, contents, strict=True)
    ]
    of_quality = {
        "auroc": "AUROC",
        "average_precision": "Average precision",
        "precision_at_num_issues": "Precision",
        "recall_at_num_issues": "Recall",
    }
    return AuditPage(
        title=str(audit.files.path),
        class_names=audit.class_names,
        examples=examples,
        class_sizes=np.bincount(issues.given, minlength=num_classes),
        class_issues=np.bincount(issues.given[issues.is_issue], minlength=num_classes),
        transition_matrix=issues.transition_matrix,
        confused_pairs=[p for p in issues.confused_pairs() if p[2] >= 0.5],
        steps=_steps(audit),
        quality={
            of_quality[name]: value
            for name, value in audit.quality().items()
            if not math.isnan(value)
        },
        remark=remark,
    )


def _shown(issues: LabelIssues, top: int) -> list[int]:
    """Returns the most suspicious examples, and some issues of every class."""
    chosen = set(issues.order[:top].tolist())
    first = issues.order[: issues.num_issues]
    by_class = first[np.argsort(issues.given[first], kind="stable")]
    starts = np.flatnonzero(np.diff(issues.given[by_class], prepend=-1))
    further = {
        int(i) for s in starts.tolist() for i in _same(issues.given, by_class, s)
    }
    # At most as many again as were asked for.
    extra = sorted(further - chosen, key=issues.rank.__getitem__)[:top]
    return sorted([*chosen, *extra], key=issues.rank.__getitem__)


def _same(given: np.ndarray, by_class: np.ndarray, start: int) -> np.ndarray:
    some = by_class[start : start + _OF_EACH_CLASS]
    return some[given[some] == given[some[0]]]


def _contents(audit: Audited, shown: list[int]) -> tuple[list[Any], str]:
    """Returns the inputs to show, and a remark on those that are missing."""
    nothing = [None] * len(shown)
    if audit.config is None:
        return nothing, (
            "the page shows no inputs: this run was trained on arrays that a program "
            "held"
        )
    try:
        source = data.listed(audit.config.dataset).train
        positions = positions_in(audit, source)
    except (InputError, OSError) as error:
        return nothing, f"the page shows no inputs: {error}"
    contents = contents_of(source, positions[shown])
    missing = sum(content is None for content in contents)
    return contents, f"{missing} inputs could not be read" if missing else ""


def _steps(audit: Audited) -> list[Step]:
    """Returns the next steps that the page shows."""
    workdir = str(audit.files.path)
    command = ["dal-jax", "audit", f"--workdir={workdir}"]
    file = f"{audit.files.path.name}-labels.npy"
    look = Step(
        "Look through the examples. Where you know better, write the right class "
        "into the column corrected_label of label_issues.csv, or -1 to leave the "
        "example out.",
        "",
    )
    if audit.config is None:
        return [look]
    again = dataclasses.replace(
        audit.config,
        noise=dataclasses.replace(audit.config.noise, kind="file", path=file),
    )
    words = [*train_command(again), f"--workdir={workdir}-again"]
    return [
        look,
        Step(
            "Write new labels. The likely wrong ones get the suggested class, and what "
            "you corrected always counts; --action=remove leaves them out of training "
            "instead, --action=corrected changes only what you corrected.",
            quoted([*command, f"--write_labels={file}", "--action=relabel"]),
        ),
        Step("Train again, on the new labels.", quoted(words)),
    ]
