"""Moved to dal_jax.config; removed once nothing imports it."""

from dal_jax.config import *  # noqa: F403
