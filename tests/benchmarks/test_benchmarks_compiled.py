"""DAL and GCE stay at three passes over the logits as compiled for a TPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compiled.py"


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="no TPU compiler")
def test_three_passes_and_no_array_beside_the_gradient(tmp_path):
    out = tmp_path / "compiled.json"
    flags = "--targets=v5e", "--losses=dal,gce", "--no-head", f"--out={out}"
    shapes = "--shapes=1024x128256:bfloat16,65536x1000:float32"
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *flags, shapes],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tables = json.loads(out.read_text())["tables"]
    assert len(tables) == 2
    for table in tables:
        rows = {row["name"]: row for row in table["rows"]}
        for name in ("dal", "gce"):
            assert 2 <= rows[name]["passes"] <= 3.15, (table["shape"], rows[name])
            assert rows[name]["temporaries"] <= 0.05, (table["shape"], rows[name])
