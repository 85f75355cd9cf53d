"""The audit of a finished run: its files, its page, and labels to train on again."""

from dal_jax.audit.files import PAGE, describe, write_files
from dal_jax.audit.labels import ACTIONS, check_output, new_labels, write_labels
from dal_jax.audit.run import Audited, audited

__all__ = [
    "ACTIONS",
    "PAGE",
    "Audited",
    "audited",
    "check_output",
    "describe",
    "new_labels",
    "write_files",
    "write_labels",
]
