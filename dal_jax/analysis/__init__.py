"""Arrays in, tables out: numpy and scipy alone."""

from dal_jax.analysis.label_issues import (
    LabelIssues,
    Ranking,
    label_issues,
    rank_quality,
)
from dal_jax.analysis.of_run import of_dynamics

__all__ = ["LabelIssues", "Ranking", "label_issues", "of_dynamics", "rank_quality"]
