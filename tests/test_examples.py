"""The examples run, and show what their prose says they show."""

import importlib.util
import re
import runpy
import warnings
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```python\n(.*?)```", re.S)
BLOCKS = {
    f"{page}-{name}": code
    for page in ("quickstart", "migration")
    for name, code in BLOCK.findall((ROOT / f"docs/{page}.md").read_text())
}


def learns(evaluations):
    """Whether the last evaluation of a few steps is better than the first."""
    first, *_, last = evaluations
    return last["perplexity"] < first["perplexity"] / 2


# What each leaves behind, by which it is told that it did what it says.
CLAIMS = {
    "audit_folder": lambda x: x["precision"] > 0.9 and x["recall"] > 0.9,
    "bare_jax": lambda x: x["accuracy"]["DAL"] > x["accuracy"]["cross entropy"] + 0.1,
    "flax_linen": lambda x: x["corrected"] > 0.95,
    "flax_nnx": lambda x: x["corrected"] > 0.95,
    "hosts": lambda x: min(x["accuracies"]) > 0.9,
    "language_head": lambda x: x["memory"]["mean"] < x["memory"]["plain"] / 2,
    "language_model": lambda x: learns(x["train"]("dal", 0.2, 0, 10_240, q_end=0.5)),
    "sound": lambda x: x["accuracy"] > 0.9 and x["found"] > 0.9,
    "sweep": lambda x: x["test"][3] > x["test"][0],
    "table": lambda x: x["accuracy"] > x["plain"].summary["test_accuracy_last"] + 0.1,
    "text": lambda x: min(x["accuracy"], x["token_accuracy"]) > 0.85,
    "tokens": lambda x: x["accuracy"] > 0.95,
    "with_equinox": lambda x: x["corrected"] > 0.95 and x["compiled"] == 1,
    "with_keras": lambda x: x["corrected"] > 0.95 and float(x["loss"].q.value) > 1.4,
    "with_optax": lambda x: x["corrected"] > 0.95,
}
LONGER = {"language_model": 150}  # a command with a network and a loop of its own
# Not in the extra ``test``.
FOREIGN = {"with_equinox": "equinox", "with_keras": "keras"}


def test_every_example_is_run_here():
    assert set(CLAIMS) == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_example(name):
    package = FOREIGN.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings():
        if package:
            warnings.simplefilter("default")  # theirs are not ours to fix
        left = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert CLAIMS[name](left)


def test_every_example_is_short():
    lines = {x.stem: len(x.read_text().splitlines()) for x in EXAMPLES.glob("*.py")}
    assert all(n < LONGER.get(name, 100) for name, n in lines.items()), lines


@pytest.mark.parametrize("name", BLOCKS)
def test_block_of_a_page(name):
    exec(BLOCKS[name], {})
