"""Draws the pictures of the README and of docs/method.md.

    python docs/pictures.py

The loss and its schedule are evaluated by the library; the learning curves come from
benchmarks/results/digits_curves.json, which `python benchmarks/learning_curves.py
--seeds=3` measures.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dal_jax import dal_objective, dal_schedule

HERE = Path(__file__).parent
CURVES = HERE.parent / "benchmarks/results/digits_curves.json"
NUM_CLASSES = 10
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")

matplotlib.rcParams.update(
    {
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "dal_jax",  # the same bytes every time
    }
)


def logits_of(p: np.ndarray) -> jax.Array:
    """Logits [N, K] of predictions that give class 0 p, and all others the same."""
    rest = (1 - p) / (NUM_CLASSES - 1)
    others = np.repeat(rest[:, None], NUM_CLASSES - 1, axis=1)
    return jnp.log(np.concatenate([p[:, None], others], axis=1))


def loss_and_slope(p: np.ndarray, q: float, weight: float):
    """The loss at the given label 0, and its derivative by that label's logit."""
    labels = jnp.zeros(len(p), int)

    def total(logits):
        losses = dal_objective(logits, labels, q, weight)
        return losses.sum(), losses

    (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(logits_of(p))
    return np.asarray(losses), np.asarray(gradient)[:, 0]


def draw_loss(figure: Figure):
    left, middle, right = figure.subplots(1, 3)
    p = np.linspace(0.002, 0.998, 400)
    _, cross_entropy = loss_and_slope(p, 0.0, 0.0)
    for q, colour in zip((0.0, 0.6, 1.0, 1.5), COLOURS, strict=False):
        losses, slope = loss_and_slope(p, q, 0.0)
        left.plot(p, losses, color=colour, label=f"q = {q:g}")
        middle.plot(p, slope / cross_entropy, color=colour)
    left.set(ylim=(0, 4), xlabel="$p_y$", title="fitting term")
    left.legend(frameon=False)
    middle.set(xlabel="$p_y$", title="gradient, over cross entropy's")
    for weight, colour in zip((0.0, 0.5, 1.0), COLOURS[2:], strict=True):
        _, slope = loss_and_slope(p, 1.5, weight)
        right.plot(p, -slope, color=colour, label=f"λ = {weight:g}")
    right.axhline(0, color="0.8", lw=0.8)
    right.set(xlabel="$p_y$", title="pull on the label's logit, q = 1.5")
    right.legend(frameon=False)


def draw_schedule(figure: Figure):
    axes = figure.subplots()
    steps = np.arange(1001)
    q, weight = dal_schedule(1000)(steps)
    axes.plot(steps / 1000, q, color=COLOURS[0], label="q")
    axes.plot(steps / 1000, weight, color=COLOURS[1], label="λ, the bootstrap weight")
    passes = float(np.argmax(np.asarray(q) >= 1)) / 1000
    axes.axvline(passes, color="0.8", lw=0.8)
    axes.text(passes - 0.02, 0.12, "early: fit", ha="right")
    axes.text(passes + 0.02, 1.42, "late: trust what is predicted")
    axes.set(xlabel="share of the run", ylim=(0, 1.55))
    axes.legend(frameon=False, loc="upper left")


def draw_curves(figure: Figure, results: dict):
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "test_accuracy": "test images that are right",
        "memorized": "wrong labels, learned",
        "corrected": "wrong labels, corrected",
    }
    named = (("ce", "cross entropy", COLOURS[1]), ("dal", "DAL", COLOURS[0]))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for loss, label, colour in named:
            runs = np.array([run[name] for run in results[loss]])
            epochs = np.arange(1, runs.shape[1] + 1)
            axes.fill_between(
                epochs, runs.min(0), runs.max(0), color=colour, alpha=0.25, lw=0
            )
            axes.plot(epochs, runs.mean(0), color=colour, label=label)
        axes.set(title=title, xlabel="epoch", ylim=(0, 1.02))
    panels[0].legend(frameon=False, loc="lower right")


def main():
    out = HERE / "pictures"
    out.mkdir(exist_ok=True)
    results = json.loads(CURVES.read_text())
    for name, size, draw in (
        ("loss.svg", (9, 2.8), draw_loss),
        ("schedule.svg", (5, 2.6), draw_schedule),
        ("curves.png", (8, 2.4), lambda figure: draw_curves(figure, results)),
    ):
        figure = Figure(figsize=size, layout="constrained", dpi=110)
        draw(figure)
        metadata = {"Date": None} if name.endswith("svg") else {"Software": None}
        figure.savefig(out / name, metadata=metadata)


if __name__ == "__main__":
    main()
