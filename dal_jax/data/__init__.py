"""Data sources: from a name and options to inputs, labels and original indices."""

from dal_jax.data.loading import listed, load, names
from dal_jax.data.split import Dataset, InputSource, Split
from dal_jax.data.subsets import validation_split

__all__ = [
    "Dataset",
    "InputSource",
    "Split",
    "listed",
    "load",
    "names",
    "validation_split",
]
