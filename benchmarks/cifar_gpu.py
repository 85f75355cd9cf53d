r"""The study for a GPU: ResNet-18 on CIFAR-10, its speed and the released recipe.

    python benchmarks/cifar_gpu.py --config=configs/cifar10.py \
        --config.dataset.data_dir=TFDS_DIRECTORY --config.precision=bfloat16 \
        --labels_dir=LABELS_DIRECTORY --workdir=runs/cifar_gpu [--parts=speed,recipe]

``speed``: images per second at batches of 128 and 512 in float32 and bfloat16, share of
the matrix peak, host time per step, against the plain PyTorch loop and against
torch.compile with channels-last and bfloat16 (see benchmarks/training.py).
``recipe``: 150 epochs on the released symmetric, asymmetric and instance-dependent 40 %
labels, found as ``symmetric/cifar10_40.npy`` and so on below ``--labels_dir``, with
cross entropy and Dynamics-Aware Loss, one run after the other as ``dal-jax compare``
does it; the same command goes on where it stopped. What is measured is printed, and
written to ``speed.json`` and ``recipe.json`` with ``.md`` beside them in the workdir.
JAX takes most of a GPU's memory for itself; XLA_PYTHON_CLIENT_PREALLOCATE=false leaves
some to PyTorch.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import training
from absl import flags

from dal_jax import cli
from dal_jax.comparing import plan
from dal_jax.comparing.engine_local import run_local
from dal_jax.comparing.job import Job
from dal_jax.comparing.results import write_results
from dal_jax.comparing.study import Study
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError, unknown_name

_NOISES = ("symmetric", "asymmetric", "instance")


def measure_speed(
    config: TrainConfig,
    batch_sizes: Sequence[int],
    precisions: Sequence[str],
    workers: Sequence[int],
    rounds: int,
    examples: int,
) -> tuple[dict[str, Any], str]:
    """Returns the speed of a configuration's network, as values and as text."""
    cases = [
        dataclasses.replace(
            training.CASES["resnet18"],
            model=config.model.name,
            batch_size=batch_size,
            examples=examples // batch_size * batch_size,
        )
        for batch_size in batch_sizes
    ]
    results = [training.measure(c, precisions, workers, rounds) for c in cases]
    return {"cases": results}, "\n\n".join(map(training.format_result, results))


def train_recipe(
    config: TrainConfig,
    loss_names: Sequence[str],
    labels_dir: Path,
    seeds: int,
    workdir: Path,
) -> tuple[dict[str, Any], str]:
    """Returns the accuracy of a configuration on the released labels."""
    paths = [labels_dir / name / "cifar10_40.npy" for name in _NOISES]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"no label file {path}: expected those released with the method; "
                "set --labels_dir to the directory that holds symmetric/"
            )
    noises = [plan.Noise("file", path=str(path)) for path in paths]
    runs = plan.make_plan(config, loss_names, noises, range(seeds))
    study = Study(workdir / "comparison")
    plan.check_data(run for run in runs if not study.finished(run.name))
    study.begin(config)

    def report(job: Job, outcome: str) -> None:
        print(f"{job.name}: {outcome}", file=sys.stderr, flush=True)

    left = [Job.of(study, run) for run in runs if not study.finished(run.name)]
    run_local(left, 1, report, lambda: None)
    return {"runs": study.rows(runs)}, write_results(study, runs, [])


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("workdir", "runs/cifar_gpu", "Where runs and results are written."),
        ("labels_dir", "", "Holds symmetric/cifar10_40.npy and so on."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)
    for name, default, text in (
        ("parts", ["speed", "recipe"], "What to measure."),
        ("losses", ["ce", "dal"], "Losses that the recipe trains."),
        ("batch_sizes", ["128", "512"], "Batches whose speed is measured."),
        ("precisions", ["float32", "bfloat16"], "Precisions likewise."),
        ("workers", ["0", "8"], "Worker processes of PyTorch's DataLoader."),
    ):
        flags.DEFINE_list(name, default, text, flag_values=values)
    for name, default, text in (
        ("seeds", 1, "Seeds 0, 1, ... of the recipe."),
        ("rounds", 5, "Epochs timed of each contestant."),
        ("examples", 50_000, "Images in an epoch that is timed."),
    ):
        flags.DEFINE_integer(name, default, text, flag_values=values)


def _main(config: TrainConfig, values: flags.FlagValues) -> None:
    cli.use_compilation_cache()
    workdir = Path(values.workdir)
    parts = {
        "speed": lambda: measure_speed(
            config,
            [int(n) for n in values.batch_sizes],
            values.precisions,
            [int(n) for n in values.workers],
            values.rounds,
            values.examples,
        ),
        "recipe": lambda: train_recipe(
            config,
            values.losses,
            Path(values.labels_dir),
            values.seeds,
            workdir,
        ),
    }
    description = machine.describe()
    unknown = [part for part in values.parts if part not in parts]
    if unknown:
        raise unknown_name("part", unknown[0], parts)
    for part in values.parts:
        result, text = parts[part]()
        text = f"{text}\n\n{machine.markdown(description)}"
        training.write(str(workdir / part), {"machine": description, **result}, text)
        print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    from dal_jax.training import Interrupted

    cli.quiet()
    try:
        cli.run_command(_main, _define_flags, description=__doc__)
    except Interrupted as error:
        cli.end(error, 128 + error.signal_number)
