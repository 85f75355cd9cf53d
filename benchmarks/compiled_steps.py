"""What XLA's compiler for TPU reports about whole training steps, without a device.

    pip install "dal_jax[compiled]"
    python benchmarks/compiled_steps.py [--meshes=1x1,8x1,4x2,64x1] [--target=v5e]
        [--cases=digits,classes8192,cnn,resnet18,resnet50] [--text=DIRECTORY]
        [--options=NAME=VALUE,...] [--out=benchmarks/results/compiled-steps]

The program is the one that training runs, with crops, flips, the loss, the optimizer,
what is seen of every example, and the state donated: ``lax.scan`` over ten steps where
the images are on the device (digits, CIFAR), one step where they are streamed (224
pixels). A mesh is "devices that share the batch" x "devices that share the classes".
Figures are of one step on one chip: a loop's body counts once. "flops" and "bytes" are
the compiler's counts; the times are these over the chip's published peak and bandwidth,
and the longer of the two is the least that a step can take. The share of the peak is
what the step could reach then. Nothing runs on the devices named.
"""

import argparse
import dataclasses
import json
import math
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import compilers  # isort: skip  (before JAX)
import jax
import jax.numpy as jnp
import machine
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dal_jax import cli, recipe
from dal_jax.data import Split
from dal_jax.training import experiment, programs
from dal_jax.training.parallel import ShardedJit
from dal_jax.training.plan import Plan, given_labels, make_plan
from dal_jax.training.state import TrainMetrics

TOPOLOGIES = {8: "2x4", 64: "8x8"}
ROWS = 10  # steps of a program


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step: its recipe, the examples, and whether they are streamed."""

    config: str
    batch: int  # a chip
    examples: int
    image_shape: tuple[int, int, int]
    num_classes: int
    precision: str = "bfloat16"
    streamed: bool = False
    model: str | None = None  # the recipe's


CASES = {
    "digits": Case("digits", 64, 1297, (8, 8, 1), 10, precision="float32"),
    # The digits' network with a large last layer: what sharing its classes brings.
    "classes8192": Case("digits", 64, 50_000, (8, 8, 1), 8192),
    "cnn": Case("cifar10", 128, 50_000, (32, 32, 3), 10, model="cnn"),
    "resnet18": Case("cifar10", 128, 50_000, (32, 32, 3), 10),
    "resnet50": Case("webvision_mini", 128, 65_944, (256, 256, 3), 50, streamed=True),
}


def main() -> None:
    arguments = parse()
    result: dict[str, Any] = {"machine": machine.describe(), "steps": []}
    result["machine"] |= compilers.versions()
    options = dict(o.split("=") for o in arguments.options.split(",") if o)
    for name in arguments.cases.split(","):
        for mesh in arguments.meshes.split(","):
            sharing, model_devices = map(int, mesh.split("x"))
            chips = devices(arguments.target, sharing * model_devices)
            if chips is None:
                sys.exit("no TPU compiler: pip install libtpu")
            began = time.perf_counter()
            program = compile_step(CASES[name], chips, model_devices, options)
            row = {"case": name, "target": arguments.target, "mesh": mesh}
            row |= {"options": options} if options else {}
            row |= facts(program, compilers.TPUS[arguments.target])
            row["compile_seconds"] = time.perf_counter() - began
            row["commit"] = result["machine"]["commit"]
            result["steps"].append(row)
            print(json.dumps(row), flush=True)
            if arguments.text:
                file = Path(arguments.text) / f"{name}-{arguments.target}-{mesh}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(program.as_text())
            if arguments.out:
                write(result, Path(arguments.out))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--meshes", default="1x1,8x1,4x2,64x1", help="BATCHxCLASSES")
    parser.add_argument("--target", default="v5e", choices=compilers.TPUS)
    parser.add_argument("--options", default="", help="the compiler's, NAME=VALUE,...")
    parser.add_argument("--text", help="a directory for the programs' text")
    parser.add_argument("--out", help="PREFIX of a .json, whose rows are kept, and .md")
    return parser.parse_args()


def devices(target: str, number: int) -> list[Any] | None:
    found = compilers.devices_of(target, topology=TOPOLOGIES.get(number))
    return found and found[:number]


def make_case_plan(case: Case, num_devices: int) -> Plan:
    """Returns the plan of a run on black images, which nothing looks at."""
    config = runpy.run_path(str(cli.recipe_files()[case.config]))["get_config"]()
    config.batch_size = case.batch * num_devices
    config.precision = case.precision
    config.model.name = case.model or config.model.name
    names = tuple(map(str, range(case.num_classes)))
    examples = max(case.examples, config.batch_size)
    images = np.zeros((examples, *case.image_shape), np.uint8)
    train = Split(images, np.arange(examples, dtype=np.int32) % len(names))
    record = given_labels(train, len(names))
    prepared = recipe.Prepared(names, train, record, None, None)
    return make_plan(**recipe.ingredients(config, prepared))


def compile_step(
    case: Case, chips: list[Any], model_devices: int, options: dict[str, str]
) -> Any:
    """Compiles the program that training runs, for shapes and placements alone."""
    plan = make_case_plan(case, len(chips))
    parallel = ShardedJit(model_devices, chips)
    function = experiment.make_accumulate(plan, parallel)
    state = jax.eval_shape(experiment.make_init(plan), jax.random.key(0))
    carry = parallel.abstract_stored_state((state, jax.eval_shape(TrainMetrics.zero)))

    def placed(shape, dtype, *axes):
        sharding = NamedSharding(parallel._mesh, P(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    batch, shared = plan.options.batch_size, parallel._of_batch
    key = placed(jax.random.key_data(jax.random.key(0)).shape, jnp.uint32)
    if case.streamed:
        program = programs.batch_program(parallel, function, donate=True)
        of_batch = {
            "inputs": placed((batch, *case.image_shape), jnp.uint8, *shared),
            "labels": placed((batch,), jnp.int32, *shared),
            "position": placed((batch,), jnp.int32, *shared),
        }
        arguments = carry, key, of_batch
    else:
        program = programs.rows_program(
            parallel, function, ROWS, plan.train.input_shape, donate=True
        )
        resident = {
            "inputs": placed((len(plan.train), math.prod(case.image_shape)), jnp.uint8),
            "labels": placed((len(plan.train),), jnp.int32),
        }
        order = placed(
            (max(plan.steps_per_epoch, ROWS), batch), jnp.int32, None, *shared
        )
        arguments = carry, key, resident, order, placed((), jnp.int32)
    return program.lower(*arguments).compile(compiler_options=options or None)


def facts(program: Any, chip: compilers.Chip) -> dict[str, Any]:
    """Returns what a compiled program says of itself, by chip and step."""
    memory, costs, text = (
        program.memory_analysis(),
        program.cost_analysis(),
        program.as_text(),
    )
    sizes = ("argument", "output", "alias", "temp")
    row = {f"{size}_bytes": getattr(memory, f"{size}_size_in_bytes") for size in sizes}
    flops, moved = costs["flops"], costs["bytes accessed"]
    by_flops, by_bytes = flops / chip.flops, moved / chip.bandwidth
    return row | {
        "flops": flops,
        "bytes_moved": moved,
        "ms_by_flops": 1e3 * by_flops,
        "ms_by_bytes": 1e3 * by_bytes,
        "share_of_peak_at_most": by_flops / max(by_flops, by_bytes),
        "collectives": compilers.collectives(text),
    }


def write(result: dict[str, Any], out: Path) -> None:
    """Writes the JSON, with the rows of earlier commands that are not made anew."""
    file = out.with_suffix(".json")
    key = ("case", "target", "mesh")
    made = {tuple(row[k] for k in key): row for row in result["steps"]}
    earlier = json.loads(file.read_text())["steps"] if file.exists() else []
    rows = {tuple(row[k] for k in key): row for row in earlier} | made
    kept = {**result, "steps": list(rows.values())}
    file.write_text(json.dumps(kept, indent=1) + "\n")
    text = markdown(kept["steps"]) + "\n\n" + machine.markdown(result["machine"])
    out.with_suffix(".md").write_text(text + "\n")


def markdown(rows: list[dict[str, Any]]) -> str:
    names = (
        *("step", "target", "mesh", "arguments, MB", "aliased, MB", "temporaries, MB"),
        *("GFLOP", "GB moved", "ms by flops", "ms by bytes", "share of peak at most"),
        *("collectives (MB)", "commit"),
    )
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        sizes = (row[f"{n}_bytes"] / 1e6 for n in ("argument", "alias", "temp"))
        cells = [row["case"], row["target"], row["mesh"], *(f"{s:.1f}" for s in sizes)]
        cells += [f"{row['flops'] / 1e9:.4g}", f"{row['bytes_moved'] / 1e9:.3g}"]
        cells += [f"{row[f'ms_by_{n}']:.3g}" for n in ("flops", "bytes")]
        cells.append(f"{row['share_of_peak_at_most']:.0%}")
        cells.append(
            ", ".join(
                f"{c['count']} {name} ({c['bytes'] / 1e6:.3g})"
                for name, c in sorted(row["collectives"].items())
            )
            or "none"
        )
        cells.append(row.get("commit", ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
