"""Training: the pure step, the devices, the loop and what it writes."""

from dal_jax.training.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]
