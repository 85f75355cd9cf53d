"""Moved to dal_jax.config; this stays while callers move."""

from dal_jax.config import *  # noqa: F403
