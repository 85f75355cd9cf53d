"""Training: the pure step, the devices, the loop and what it writes."""

from dal_jax.training.loop import train_and_evaluate
from dal_jax.training.run import NonFiniteError
from dal_jax.training.stopping import Interrupted
from dal_jax.training.workdir import StorageError

__all__ = ["Interrupted", "NonFiniteError", "StorageError", "train_and_evaluate"]
