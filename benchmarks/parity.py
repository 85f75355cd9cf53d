"""The released losses in a plain PyTorch loop, against this package, run by run.

    python benchmarks/parity.py --config=configs/digits.py --losses=ce,gce,dal
        --noises=symmetric:0.4,symmetric:0.8,asymmetric:0.4 --seeds=5
        --out=benchmarks/results/parity [--config.FIELD=VALUE ...]

For each loss, noise and seed both programs train the CNN with the same noisy labels,
initial values, batches and learning rates, and are tested on clean labels after the
last epoch. What differs is everything else: the framework, the form of the loss, and
the released code's clamps. ``q`` is held within an epoch, as the released code does it.
Needs PyTorch. Writes ``OUT.md`` and ``OUT.json``.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import machine
import numpy as np
import torch
import training as benchmark
from absl import flags
from torch import nn

from dal_jax import cli, recipe
from dal_jax.analysis.comparison import estimate, paired_p_value
from dal_jax.comparing.plan import Run, make_plan, parse_noise
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError
from dal_jax.reporting.comparison_tables import interval, markdown_table, spread
from dal_jax.training import experiment, fit
from dal_jax.training.feed import epoch_order
from dal_jax.training.plan import Plan
from dal_jax.training.plan import make_plan as plan_of

_CLAMP = 1e-6  # of probabilities, in the released code
_Q, _Q_START, _Q_END = 0.7, 0.6, 1.5

# (logits, labels, epoch, epochs) -> the mean of a batch
Loss = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]


def ce(logits, labels, epoch, epochs):
    return nn.functional.cross_entropy(logits, labels)


def gce(logits, labels, epoch, epochs):
    return _gce(logits.softmax(1), labels, _Q).mean()


def dal(logits, labels, epoch, epochs):
    q = _Q_START + (_Q_END - _Q_START) * epoch / epochs
    weight = max(0.0, (q - 1) / (_Q_END - 1))
    p = logits.softmax(1)
    entropy = -(p * torch.log(p + _CLAMP)).sum(1)
    bootstrapping = entropy / (q * math.log(logits.shape[1]))
    return (_gce(p, labels, q) + weight * bootstrapping).mean()


def _gce(p: torch.Tensor, labels: torch.Tensor, q: float) -> torch.Tensor:
    own = p.clamp(_CLAMP, 1.0).gather(1, labels[:, None])[:, 0]
    return (1 - own**q) / q


LOSSES: dict[str, Loss] = {"ce": ce, "gce": gce, "dal": dal}


def measure(run: Run) -> dict[str, Any]:
    """Returns the test accuracy of both programs for one run."""
    ingredients = recipe.ingredients(run.config, recipe.prepare(run.config))
    plan = plan_of(**ingredients)
    theirs = train_in_torch(plan, LOSSES[run.loss])
    ours = fit(**ingredients).summary["test_accuracy_last"]
    return {
        "loss": run.loss,
        "noise": run.noise.label,
        "seed": run.seed,
        "dal_jax": ours,
        "released": theirs,
    }


def train_in_torch(plan: Plan, loss: Loss) -> float:
    """Trains as PyTorch users do; returns the accuracy on the clean test labels."""
    network = _network(jax.device_get(experiment.build(plan).init().params))
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    options, step = plan.options, 0
    images, labels = _tensors(plan.train.inputs, plan.train.labels)
    for epoch in range(options.num_epochs):
        order = epoch_order(
            plan.seeds["data_order"], epoch, len(labels), options.batch_size
        )
        for rows in torch.from_numpy(order.astype(np.int64)):
            for group in optimizer.param_groups:
                group["lr"] = float(plan.schedules["learning_rate"](step))
            optimizer.zero_grad()
            logits = network(images[rows])
            loss(logits, labels[rows], epoch, options.num_epochs).backward()
            optimizer.step()
            step += 1
    if plan.test is None:
        raise InputError("no test examples: expected some; give another --config")
    images, labels = _tensors(plan.test.inputs, plan.test.labels)
    with torch.no_grad():
        return (network(images).argmax(1) == labels).double().mean().item()


class _ChannelsLast(nn.Module):
    """Rows as the other program flattens them: height, width, channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def _network(params: Any) -> nn.Module:
    """The CNN with the initial values of the other program."""
    layers: list[nn.Module] = []
    for convolution in params["convolutions"].values():
        kernel = np.asarray(convolution["kernel"])
        layer = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
        _set(layer, kernel.transpose(3, 2, 0, 1), convolution["bias"])
        layers += [layer, nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(_ChannelsLast())
    head = params["classifier"]["head"]
    last = nn.Linear(*np.shape(head["kernel"]))
    _set(last, np.asarray(head["kernel"]).T, head["bias"])
    return nn.Sequential(*layers, last)


def _set(layer: Any, weight: np.ndarray, bias: Any) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.copy()))
        layer.bias.copy_(torch.from_numpy(np.array(bias)))


def _tensors(inputs: Any, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.asarray(inputs)).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(labels.astype(np.int64))


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Returns a table of both programs, with the paired difference."""
    lines = []
    for noise, loss in dict.fromkeys((row["noise"], row["loss"]) for row in rows):
        of = [r for r in rows if (r["noise"], r["loss"]) == (noise, loss)]
        ours = {r["seed"]: r["dal_jax"] for r in of}
        theirs = {r["seed"]: r["released"] for r in of}
        differences = estimate(ours[seed] - theirs[seed] for seed in ours)
        lines.append(
            [
                noise,
                loss,
                spread(estimate(ours.values())),
                spread(estimate(theirs.values())),
                interval(differences),
                f"{paired_p_value(ours, theirs)[0]:.2f}",
            ]
        )
    head = ["noise", "loss", "dal_jax", "released, PyTorch", "difference", "p"]
    return markdown_table(head, lines)


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("losses", list(LOSSES), "Of ce, gce and dal."),
        ("noises", ["symmetric:0.4", "symmetric:0.8", "asymmetric:0.4"], "KIND:RATE."),
    ):
        flags.DEFINE_list(name, default, text, flag_values=values)
    flags.DEFINE_integer("seeds", 5, "Seeds 0, 1, ...", flag_values=values)
    flags.DEFINE_string("out", "parity", "Files without ending.", flag_values=values)


def _main(config: TrainConfig, values: flags.FlagValues) -> None:
    _check(config)
    cli.use_compilation_cache()
    torch.set_num_threads(1)  # more only wait for each other at this size
    config.loss.per_epoch = True
    noises = [parse_noise(text) for text in values.noises]
    rows = []
    for run in make_plan(config, values.losses, noises, range(values.seeds)):
        rows.append(measure(run))
        print(rows[-1], file=sys.stderr, flush=True)
    text = (
        "Test accuracy at the last epoch, mean ± sample standard deviation over seeds; "
        "the paired difference with its 95 % bootstrap interval and the p-value of a "
        "paired t-test, not corrected for the number of rows.\n\n" + format_rows(rows)
    )
    description = machine.describe()
    text = f"{text}\n\n{machine.markdown(description)}"
    benchmark.write(values.out, {"machine": description, "runs": rows}, text)
    print(text)


def _check(config: TrainConfig) -> None:
    model, augmentation = config.model, config.augmentation
    known = model.name == "cnn" and not model.hidden
    known &= (augmentation.mean, augmentation.std) == ((0.0,), (1.0,))
    if not known or config.optimizer.weight_decay:
        raise InputError(
            "parity trains the network of configs/digits.py alone: expected model cnn "
            "without hidden layers, pixels in [0, 1] and no weight decay; use that"
        )


if __name__ == "__main__":
    cli.run_command(_main, _define_flags, description=__doc__)
