"""What an audit writes into a run's directory."""

import io
import math
from collections.abc import Callable

from dal_jax.analysis.table import write_table
from dal_jax.audit.page import make_page
from dal_jax.audit.run import TABLE, Audited
from dal_jax.reporting.page import render

FIGURES, PAGE = "audit.json", "label_issues.html"


def write_files(
    audit: Audited, *, top: int = 100, say: Callable[[str], None] = lambda line: None
) -> None:
    """Writes the table, the figures and the page into the run's directory.

    A table that differs from what is written now is a person's work, or an earlier
    version's, and stays as it is.

    Args:
      audit: of the run.
      top: how many examples the page shows.
      say: called with each line that a person would want to read.
    """
    files = audit.files
    files.mark.claim(adopt=True)
    files.refuse_strangers(TABLE, FIGURES, PAGE)
    table = io.BytesIO()
    write_table(table, audit.issues, audit.record.index, audit.class_names, audit.names)
    path = files.path / TABLE
    if not path.exists():
        files.write(TABLE, lambda file: file.write(table.getbuffer()))
    elif path.read_bytes() != table.getbuffer():
        say(
            f"kept {path}, which was changed since an audit wrote it; move it away to "
            "have a new one"
        )
    matrix = audit.issues.transition_matrix
    files.write_json(
        FIGURES,
        {
            "num_issues": audit.issues.num_issues,
            "num_examples": len(audit.record.index),
            "class_names": list(audit.class_names),
            "transition_matrix": [[_number(x) for x in row] for row in matrix.tolist()],
            **{name: _number(value) for name, value in audit.quality().items()},
        },
    )
    page = render(make_page(audit, top, say))
    files.write(PAGE, lambda file: file.write(page.encode("utf-8", "replace")))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def describe(audit: Audited) -> str:
    """Returns the audit in one line."""
    number, of = audit.issues.num_issues, len(audit.record.index)
    line = f"{number} of {of} labels are likely wrong, {100 * number / of:.1f} %"
    quality = audit.quality()
    if quality and not math.isnan(quality["auroc"]):
        line += f"; against the clean labels AUROC {quality['auroc']:.3f}"
    return line
