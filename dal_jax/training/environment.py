"""On what a run was trained: versions and devices, one entry a change of them."""

import importlib.metadata
import platform
from typing import Any

import jax

import dal_jax
from dal_jax.training.mark import read_json
from dal_jax.training.workdir import Workdir

FILE = "environment.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def note(files: Workdir, step: int) -> None:
    """Notes on what the run goes on from a step, if that has changed."""
    now = describe()
    sessions = read_json(files.path / FILE).get("sessions", [])
    if not sessions or {**sessions[-1], **now} != sessions[-1]:
        files.write_json(FILE, {"sessions": [*sessions, {"from_step": step, **now}]})


def describe() -> dict[str, Any]:
    """Returns versions and devices by name.

    Example:
      >>> describe()["dal_jax"] == dal_jax.__version__
      True
    """
    return {
        "dal_jax": dal_jax.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "system": f"{platform.system()} {platform.machine()}",
    }
