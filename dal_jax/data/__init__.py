"""Data sources: a name and options in, inputs with labels and original indices out."""

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
