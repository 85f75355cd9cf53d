"""The examples run, and show what their prose says they show."""

import importlib.util
import re
import runpy
import tempfile
import textwrap
import warnings
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning"),
]

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
# The site runs these; the others are programs with flags, tested where they belong.
PAGES = [x for x in EXAMPLES.glob("*.py") if x.read_text().startswith("# %%")]
BLOCK = re.compile(r"<!-- test: (\w+) -->\n *```python\n(.*?)```", re.S)
BLOCKS = {
    f"{page}-{name}": textwrap.dedent(code)
    for page in ("quickstart", "migration", "extending")
    for name, code in BLOCK.findall((ROOT / f"docs/{page}.md").read_text())
}

# What each leaves behind, by which it is told that it did what it says.
CLAIMS = {
    "audit_folder": lambda x: x["precision"] > 0.9 and x["recall"] > 0.9,
    "bare_jax": lambda x: x["accuracy"]["DAL"] > x["accuracy"]["cross entropy"] + 0.1,
    "flax_linen": lambda x: x["corrected"] > 0.95,
    "flax_nnx": lambda x: x["corrected"] > 0.95,
    "hosts": lambda x: min(x["accuracies"]) > 0.9,
    "language_head": lambda x: x["memory"]["mean"] < x["memory"]["plain"] / 2,
    "sound": lambda x: x["accuracy"] > 0.98 and x["found"] > 0.9,
    "sweep": lambda x: x["test"][3] > x["test"][0],
    "table": lambda x: x["accuracy"] > x["plain"].summary["test_accuracy_last"] + 0.1,
    "text": lambda x: min(x["accuracy"], x["token_accuracy"]) > 0.85,
    "tokens": lambda x: x["accuracy"] > 0.95,
    "with_equinox": lambda x: x["corrected"] > 0.95 and x["compiled"] == 1,
    "with_keras": lambda x: x["corrected"] > 0.95 and float(x["loss"].q.value) > 1.4,
    "with_optax": lambda x: x["corrected"] > 0.95,
}
# Not in the extra ``test``.
FOREIGN = {"with_equinox": "equinox", "with_keras": "keras"}


def test_every_page_is_run_here():
    assert set(CLAIMS) == {path.stem for path in PAGES}


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_example(name, tmp_path, monkeypatch):
    package = FOREIGN.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with warnings.catch_warnings():
        if package:
            warnings.simplefilter("default")  # theirs are not ours to fix
        left = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert CLAIMS[name](left)


def test_every_example_is_short():
    lines = {path: len(path.read_text().splitlines()) for path in PAGES}
    assert max(lines.values()) < 100, lines


@pytest.mark.slow
def test_the_language_model_learns():
    program = runpy.run_path(str(EXAMPLES / "language_model.py"))
    first, *_, last = program["train"]("dal", 0.2, 0, 10_240, q_end=0.5)
    assert last["perplexity"] < first["perplexity"] / 2


@pytest.mark.parametrize("name", BLOCKS)
def test_block_of_a_page(name):
    exec(BLOCKS[name], {})
