"""The table of benchmarks/audit.py: what each way to find wrong labels found."""

from pathlib import Path
from typing import Any

import numpy as np
from cells import spread

from dal_jax.reporting.comparison_tables import markdown_table

Row = dict[str, Any]
_QUALITY = ("average_precision", "precision", "recall")


def table(rows: list[Row], imbalance: float) -> str:
    """Returns the figures as Markdown, a table a noise."""
    parts = []
    for noise in dict.fromkeys(row["noise"] for row in rows):
        of_noise = [row for row in rows if row["noise"] == noise]
        share = np.mean([row["wrong"] / row["examples"] for row in of_noise])
        parts.append(f"### {_short(noise)}: {100 * share:.1f} % wrong")
        columns = ["", "AUROC", "1 - AUROC", "average precision", "precision", "recall"]
        columns += ["flagged - wrong, % of the data", "the worst seed", "seeds"]
        columns += ["processor s"]
        if imbalance != 1:
            columns += ["right labels of the rarest class flagged"]
        lines = [
            _cells([row for row in of_noise if row["method"] == method], imbalance)
            for method in dict.fromkeys(row["method"] for row in of_noise)
        ]
        parts.append(markdown_table(columns, lines))
    return "\n\n".join(parts)


def _cells(rows: list[Row], imbalance: float) -> list[str]:
    name = rows[0]["method"]
    if "fold_epochs" in rows[0]:
        name += f", {rows[0]['fold_epochs']} epochs"
    errors = [100 * (row["flagged"] - row["wrong"]) / row["examples"] for row in rows]
    scores = [row["auroc"] for row in rows if row["auroc"] is not None]
    cells = [
        name,
        f"{np.mean(scores):.4f}" if scores else "–",
        spread([1 - score for score in scores], 4),
        *(spread([row[key] for row in rows], 3) for key in _QUALITY),
        f"{np.mean(errors):+.1f}",
        f"{max(errors, key=abs):+.1f}",
        str(len(rows)),
        f"{np.median([row['processor_seconds'] for row in rows]):.0f}",
    ]
    if imbalance != 1:
        flagged, right = (
            sum(row[key] for row in rows)
            for key in ("rarest_right_flagged", "rarest_right")
        )
        cells.append(f"{flagged} of {right}")
    return cells


def _short(noise: str) -> str:
    kind, _, option = noise.partition(":")
    return "/".join(Path(option).parts[-2:]) if kind == "file" else noise
