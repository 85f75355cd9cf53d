"""The report of a run: what is in its directory, as one page."""

from dal_jax.report.page import PAGE, write
from dal_jax.report.run import ReportedRun, read

__all__ = ["PAGE", "ReportedRun", "read", "write"]
