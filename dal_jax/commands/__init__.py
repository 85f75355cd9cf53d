"""The commands: flags in, calls, one line out. ``dal-jax NAME`` runs one of them.

A command is a module with a docstring, which ``--help`` prints, and ``main(argv)``.
"""

NAMES = (
    "train",
    "compare",
    "audit",
    "report",
    "predict",
    "export",
    "embed",
    "noise",
)
