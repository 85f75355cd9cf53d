"""The patch for optax applies to the installed one, passes its test, equals ours."""

import importlib.util
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from dal_jax import dal_objective, dal_schedule

pytestmark = pytest.mark.slow
PATCH = Path(__file__).parents[1] / "docs/optax/dynamics_aware_loss.patch"


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """The modules that the patch adds, from a copy of the installed optax's losses."""
    if optax.__version__ != "0.2.8":
        pytest.skip("the patch is for optax 0.2.8")
    root = tmp_path_factory.mktemp("optax")
    assert optax.losses.__file__
    shutil.copytree(Path(optax.losses.__file__).parent, root / "optax/losses")
    subprocess.run(["git", "apply", str(PATCH)], cwd=root, check=True)
    before = dict(sys.modules)
    modules = {}
    for name in ("_label_noise", "_label_noise_test"):
        path = root / "optax/losses" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"optax.losses.{name}", path)
        assert spec is not None
        assert spec.loader is not None
        modules[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
        setattr(optax.losses, name, modules[name])
    yield modules
    for name in modules:
        delattr(optax.losses, name)
        if f"optax.losses.{name}" not in before:
            del sys.modules[f"optax.losses.{name}"]


def test_its_own_test_passes(patched):
    suite = unittest.TestLoader().loadTestsFromModule(patched["_label_noise_test"])
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun > 15
    assert not result.failures + result.errors


def test_equals_ours(patched):
    theirs = patched["_label_noise"]
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(64, 7)), rng.integers(0, 7, 64)
    for step in (0, 30, 90):
        q, weight = theirs.dynamics_aware_schedule(90)(step)
        np.testing.assert_allclose((q, weight), dal_schedule(90)(step), rtol=1e-6)

        def upstream(logits, q=q, weight=weight):
            loss = theirs.dynamics_aware_loss(
                logits, labels, q=q, bootstrap_weight=weight
            )
            return loss.sum(), loss

        def ours(logits, q=q, weight=weight):
            loss = dal_objective(logits, labels, q, weight)
            return loss.sum(), loss

        for a, b in zip(
            jax.tree.leaves(jax.value_and_grad(upstream, has_aux=True)(logits)),
            jax.tree.leaves(jax.value_and_grad(ours, has_aux=True)(logits)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
