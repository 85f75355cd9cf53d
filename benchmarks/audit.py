"""Compares ways to find wrong labels, and prints the table.

    python benchmarks/audit.py --config=digits --out=benchmarks/results/audit-digits
        [--noises=symmetric:0.4,asymmetric:0.4,file:PATH] [--seeds=0,1,2]
        [--methods=dal,cleanlab,margin,vote] [--fold_epochs=5,10,20,30]
        [--imbalance=20] [--config.FIELD=VALUE ...]

A noise is ``KIND:RATE``, or ``file:PATH`` for a label file; the clean labels must be
known, for they say what was found. Cleanlab's networks are trained for that number of
``--fold_epochs`` that suits it best on the first seed, by the AUROC that only the clean
labels show; its time is that of this number alone. ``--imbalance=20``
thins the classes out until the largest has twenty times the examples of the smallest.

``OUT.json`` keeps what was measured and ``OUT.md`` is the table. The same command goes
on where it stopped; with more noises, seeds or methods it measures what is new.
"""

import copy
import dataclasses
import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import detectors
import machine
import numpy as np
from absl import flags
from audit_table import Row, table
from detectors import Found

from dal_jax import cli, recipe
from dal_jax.analysis import rank_quality
from dal_jax.config import TrainConfig, plain
from dal_jax.errors import InputError, unknown_name

METHODS = ("dal", "cleanlab", "margin", "vote")


def configure(base: TrainConfig, noise: str, seed: int) -> TrainConfig:
    """Returns the configuration with a noise and a seed."""
    kind, _, option = noise.partition(":")
    config = copy.deepcopy(base)
    config.seed, config.noise.kind = seed, kind
    config.noise.path = option if kind == "file" else None
    if kind != "file":
        try:
            config.noise.rate = float(option or 0)
        except ValueError:
            raise InputError(
                f"noise {noise!r}: expected KIND:RATE such as symmetric:0.4, or "
                "file:PATH; give other --noises"
            ) from None
    recipe.check(config)
    return config


def prepare(config: TrainConfig, imbalance: float) -> recipe.Prepared:
    prepared = recipe.prepare(config)
    if prepared.record.clean_labels is None:
        raise InputError(
            "the clean labels are not known: expected a data set that has them, to "
            "count what was found; give another --config"
        )
    if imbalance == 1:
        return prepared
    kept = thin_out(
        prepared.record.clean_labels, len(prepared.class_names), imbalance, config.seed
    )
    return dataclasses.replace(
        prepared, train=prepared.train.take(kept), record=prepared.record.take(kept)
    )


def thin_out(
    labels: np.ndarray, num_classes: int, imbalance: float, seed: int
) -> np.ndarray:
    """Returns positions whose class sizes fall by a constant factor.

    The order of the classes is drawn. The largest keeps its size and the smallest has
    ``imbalance`` times fewer examples.
    """
    rng = np.random.default_rng(seed)
    kept = []
    for place, k in enumerate(rng.permutation(num_classes)):
        positions = rng.permutation(np.flatnonzero(labels == k))
        share = imbalance ** (-place / (num_classes - 1))
        kept.append(positions[: max(round(len(positions) * share), 1)])
    return np.sort(np.concatenate(kept))


def measure(found: Found, prepared: recipe.Prepared, name: str, seconds: float) -> Row:
    """Returns the figures of what a method found."""
    record = prepared.record
    wrong = record.noisy_labels != record.clean_labels
    count = int(found.flagged.sum())
    quality = rank_quality(found.score, wrong)._asdict()
    hits = int((found.flagged & wrong).sum())
    quality["precision"] = hits / count if count else float("nan")
    quality["recall"] = hits / wrong.sum() if wrong.any() else float("nan")
    sizes = np.bincount(record.clean_labels, minlength=len(prepared.class_names))
    rarest = int(np.argmin(sizes))
    rare = (record.clean_labels == rarest) & ~wrong
    return {
        "method": name,
        "examples": len(wrong),
        "wrong": int(wrong.sum()),
        "flagged": count,
        **{key: None if np.isnan(x) else float(x) for key, x in quality.items()},
        "rarest_right": int(rare.sum()),
        "rarest_right_flagged": int((rare & found.flagged).sum()),
        "processor_seconds": round(seconds, 2),
    }


def run(
    method: str, config: TrainConfig, prepared: recipe.Prepared, fold_epochs: list[int]
) -> list[Row]:
    """Returns the figures of one method, or of its variants."""
    if method == "cleanlab":
        return [best_of_cleanlab(config, prepared, fold_epochs)]
    began = time.process_time()
    if method == "dal":
        found = {"dal_jax": detectors.audit(config, prepared)}
    elif method == "margin":
        found = detectors.margins(config, prepared)
    else:
        found = {"vote of 15 neighbours": detectors.vote(config, prepared)}
    seconds = time.process_time() - began
    return [measure(of, prepared, name, seconds) for name, of in found.items()]


def best_of_cleanlab(
    config: TrainConfig, prepared: recipe.Prepared, fold_epochs: list[int]
) -> Row:
    """Returns cleanlab's figures with the number of epochs that suits it best.

    That is the one with the highest AUROC, or without wrong labels with the fewest
    flagged.
    """
    rows = []
    for epochs in fold_epochs:
        began = time.process_time()
        found = detectors.confident_learning(config, prepared, epochs)
        seconds = time.process_time() - began
        row = measure(found, prepared, "cleanlab", seconds)
        rows.append({"fold_epochs": epochs} | row)

    def merit(row: Row) -> float:
        return -row["flagged"] if row["auroc"] is None else row["auroc"]

    return max(rows, key=merit)


def run_all(
    base: TrainConfig,
    noises: list[str],
    seeds: list[int],
    methods: list[str],
    fold_epochs: list[int],
    imbalance: float,
    done: list[Row],
    save: Callable[[list[Row]], None],
) -> list[Row]:
    """Measures what is not yet among ``done``, and returns all."""
    rows = list(done)
    configs = {(n, s): configure(base, n, s) for s in seeds for n in noises}
    for (noise, seed), config in configs.items():
        prepared = functools.cache(functools.partial(prepare, config, imbalance))
        for method in methods:
            key = {"noise": noise, "seed": seed, "by": method}
            if any(key.items() <= row.items() for row in rows):
                continue
            chosen = [
                row["fold_epochs"]
                for row in rows
                if row["noise"] == noise and "fold_epochs" in row
            ]
            of_method = run(method, config, prepared(), chosen[:1] or fold_epochs)
            rows += [key | row for row in of_method]
            save(rows)
            for row in of_method:
                print(
                    f"{noise} seed {seed} {row['method']}: AUROC {row['auroc']}, "
                    f"{row['flagged']} flagged, {row['wrong']} wrong, "
                    f"{row['processor_seconds']} s",
                    file=sys.stderr,
                    flush=True,
                )
    return rows


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("noises", "symmetric:0.4", "KIND:RATE or file:PATH, separated by commas."),
        ("seeds", "0", "Numbers separated by commas."),
        ("methods", ",".join(METHODS), "Which to compare."),
        ("fold_epochs", "5,10,20,30", "Epochs to choose from for cleanlab's networks."),
        ("out", None, "OUT.json and OUT.md are written."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.DEFINE_float(
        "imbalance", 1.0, "The largest class over the smallest.", flag_values=values
    )


def _main(config: TrainConfig, values: flags.FlagValues) -> None:
    cli.use_compilation_cache()
    methods = values.methods.split(",")
    for name in methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    # What all rows have in common; noise and seed are each row's own.
    common = plain(configure(config, "none", 0)) | {"imbalance": values.imbalance}
    common["dataset"] = common["dataset"] | {"data_dir": None}
    path = Path(f"{values.out}.json") if values.out else None
    done = _read(path, common) if path else []
    description = machine.describe()
    if importlib.util.find_spec("cleanlab"):
        description["cleanlab"] = metadata.version("cleanlab")

    def save(rows: list[Row]) -> None:
        if path is None:
            return
        result = {"machine": description, "common": common, "rows": rows}
        text = table(rows, values.imbalance), machine.markdown(description)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text("\n\n".join(text) + "\n")

    rows = run_all(
        config,
        values.noises.split(","),
        [int(seed) for seed in values.seeds.split(",")],
        methods,
        [int(epochs) for epochs in values.fold_epochs.split(",")],
        values.imbalance,
        done,
        save,
    )
    print(table(rows, values.imbalance))


def _read(path: Path, common: dict[str, Any]) -> list[Row]:
    if not path.is_file():
        return []
    result = json.loads(path.read_text())
    if result["common"] != common:
        raise InputError(
            f"{path} holds runs of another configuration: expected the same one, to go "
            "on; give another --out"
        )
    return result["rows"]


if __name__ == "__main__":
    cli.quiet()
    cli.run_command(_main, _define_flags, description=__doc__)
