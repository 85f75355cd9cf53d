"""Start-up time: the import compared with its parts, the first run and the second.

    python benchmarks/startup.py [--rounds=7] [--out=FILE.md]

Each import is timed in its own process, in turn, and compared pair by pair. The run is
the README's ``python train.py``, once with an empty compilation cache and once with the
cache that the first run left.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

_PARTS, _WHOLE = "import jax, optax, chex", "import dal_jax"


def seconds(command: list[str], cache: str | None = None) -> float:
    """Returns how long a process takes from start to end."""
    environment = os.environ | ({"XDG_CACHE_HOME": cache} if cache else {})
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return time.perf_counter() - began


def import_ratios(rounds: int) -> list[float]:
    """Returns the time of importing dal_jax over that of its parts, pair by pair."""
    for code in (_PARTS, _WHOLE):  # the first time fills the disk's cache
        seconds([sys.executable, "-c", code])
    return [
        seconds([sys.executable, "-c", _WHOLE])
        / seconds([sys.executable, "-c", _PARTS])
        for _ in range(rounds)
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ratios = import_ratios(arguments.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        runs = [
            seconds([sys.executable, "train.py", f"--workdir={scratch}/{n}"], scratch)
            for n in ("first", "second")
        ]
    text = "\n".join(
        [
            "| what | figure |",
            "|---|---|",
            f"| `{_WHOLE}` over `{_PARTS}` | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs) |",
            f"| `python train.py`, nothing compiled yet | {runs[0]:.1f} s |",
            f"| `python train.py`, a second time | {runs[1]:.1f} s |",
            "",
            machine.markdown(machine.describe()),
        ]
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(f"# Starting\n\n{text}\n")


if __name__ == "__main__":
    main()
