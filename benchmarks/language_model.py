"""Language models trained on text with wrong tokens: curves, three seeds.

    python benchmarks/language_model.py [--wrong=0.2,0.4] [--seeds=3]
        [--tokens=100000] [--out=benchmarks/results/language_model]
        [--figure=docs/pictures/language_model.png]

Every run is one of ``examples/language_model.py``: cross entropy, Dynamics-Aware Loss
with its default schedule, and with a q that stays low. Seeds differ in wrong tokens,
initial parameters and the order of the windows. The held-out text is clean and
chooses nothing. Runs that the results hold already are not repeated.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import machine
import matplotlib as mpl
import numpy as np

from dal_jax import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import language_model

LOSSES: dict[str, tuple[str, dict[str, float]]] = {
    "ce": ("ce", {}),
    "dal": ("dal", {}),
    "dal, q 0 to 0.5": ("dal", {"q_start": 0.0, "q_end": 0.5}),
}


def main() -> None:
    arguments = parse()
    cli.use_compilation_cache()  # seeds and shares run the same programs
    out, described = Path(arguments.out), machine.describe()
    file = Path(f"{out}.json")
    runs = json.loads(file.read_text())["runs"] if file.exists() else []
    key = ("loss", "wrong", "seed", "tokens")
    done = {tuple(run[k] for k in key) for run in runs}
    shares = [float(share) for share in arguments.wrong.split(",")]
    for seed, share, name in itertools.product(range(arguments.seeds), shares, LOSSES):
        if (name, share, seed, arguments.tokens) in done:
            continue
        loss, hyperparameters = LOSSES[name]
        began = time.process_time()
        curve = language_model.train(
            loss, share, seed, arguments.tokens, **hyperparameters
        )
        run = {"loss": name, "wrong": share, "seed": seed, "tokens": arguments.tokens}
        run |= {"curve": list(curve), "cpu_seconds": time.process_time() - began}
        runs.append(run)
        print(name, share, seed, runs[-1]["curve"][-1], file=sys.stderr, flush=True)
    result = {"machine": described, "runs": runs}
    file.write_text(json.dumps(result, indent=1) + "\n")
    text = f"{table(runs)}\n\n{machine.markdown(described)}\n"
    Path(f"{out}.md").write_text(text)
    print(text)
    draw(runs, arguments.figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrong", default="0.2,0.4", help="shares of wrong tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=100_000, help="of a run")
    parser.add_argument("--out", default="benchmarks/results/language_model")
    parser.add_argument("--figure", default="docs/pictures/language_model.png")
    return parser.parse_args()


def table(runs: list[dict[str, Any]]) -> str:
    """Returns the last figures: mean and sample deviation over seeds."""
    lines = [
        "| wrong tokens | loss | perplexity | next token right | CPU seconds a run |",
        "|---|---|---|---|---|",
    ]
    for share, name in dict.fromkeys((run["wrong"], run["loss"]) for run in runs):
        chosen = [r for r in runs if (r["wrong"], r["loss"]) == (share, name)]
        cells = [f"{share:.0%}", name]
        for figure, digits in (("perplexity", 1), ("accuracy", 3)):
            last = [run["curve"][-1][figure] for run in chosen]
            spread = np.std(last, ddof=1) if len(last) > 1 else np.nan
            cells.append(f"{np.mean(last):.{digits}f} ± {spread:.{digits}f}")
        cells.append(f"{np.median([run['cpu_seconds'] for run in chosen]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]], path: str) -> None:
    """Draws loss, perplexity and accuracy over the tokens, a line a seed."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    shares = sorted({run["wrong"] for run in runs})
    names = {"train_loss": "training loss", "perplexity": "perplexity, clean text"}
    names["accuracy"] = "next token right, clean text"
    size = (3.2 * len(names), 2.4 * len(shares))
    figure, axes = plt.subplots(len(shares), len(names), figsize=size, squeeze=False)
    for run in runs:
        color = f"C{list(LOSSES).index(run['loss'])}"
        tokens = [line["tokens"] / 1e3 for line in run["curve"]]
        for axis, name in zip(axes[shares.index(run["wrong"])], names, strict=True):
            values = [line[name] for line in run["curve"]]
            label = run["loss"] if run["seed"] == 0 else None
            axis.plot(tokens, values, color=color, label=label, linewidth=1)
    for row, share in zip(axes, shares, strict=True):
        row[0].set_ylabel(f"{share:.0%} wrong")
        row[1].set_yscale("log")
    for axis, title in zip(axes[0], names.values(), strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("thousand tokens")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
