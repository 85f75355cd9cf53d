"""Arrays in, tables out: numpy and scipy alone."""

from dal_jax.analysis.label_issues import (
    LabelIssues,
    Ranking,
    label_issues,
    rank_quality,
)

__all__ = ["LabelIssues", "Ranking", "label_issues", "rank_quality"]
