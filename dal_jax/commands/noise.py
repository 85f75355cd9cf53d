"""Draws noisy labels and writes them to a file, without training.

    dal-jax noise --out=DIR [--config=digits | FILE]
                  [--config.noise.FIELD=VALUE ...] [--overwrite]

Writes DIR/noise.npz and a picture, DIR/transition_matrix.png. Train on these labels
with --config.noise.kind=file --config.noise.path=DIR/noise.npz.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from dal_jax import cli
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError
from dal_jax.noise.picture import save_picture
from dal_jax.noise.record import NoiseRecord


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(_write, _define_flags, description=__doc__, argv=argv)


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "The directory to write to.", flag_values=values)
    flags.DEFINE_bool(
        "overwrite", False, "Replace the noise in --out.", flag_values=values
    )


def _write(config: TrainConfig, values: flags.FlagValues) -> None:
    from dal_jax.recipe import prepare

    if not values.out:
        raise InputError("no --out: expected a directory to write to; give --out=DIR")
    out = Path(values.out)
    labels, picture = out / "noise.npz", out / "transition_matrix.png"
    if out.exists() and not out.is_dir():
        raise InputError(
            f"--out={out} is a file: expected a directory; give another --out"
        )
    there = [path.name for path in (labels, picture) if path.exists()]
    if there and not values.overwrite:
        raise InputError(
            f"{out} already holds {' and '.join(there)}: give another --out, or "
            "--overwrite to replace it"
        )
    # Nothing is held out, so that the file fits any validation fraction.
    dataset = dataclasses.replace(config.dataset, validation_fraction=0.0)
    prepared = prepare(dataclasses.replace(config, dataset=dataset))
    record, why_no_picture = prepared.record, _why_no_picture(prepared.record)
    try:
        out.mkdir(parents=True, exist_ok=True)
        record.save(labels)
        if why_no_picture is None:
            save_picture(record, picture, prepared.class_names)
        else:
            # An older picture would not be of these labels.
            picture.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): expected a directory that you "
            "may write to; give another --out"
        ) from None
    print(describe(record))
    if why_no_picture is None:
        print(f"wrote {labels} and {picture}")
    else:
        print(f"wrote {labels}, and no picture: {why_no_picture}")


def _why_no_picture(record: NoiseRecord) -> str | None:
    if record.clean_labels is None:
        return "the clean labels are not known"
    if record.transition_matrix is None:
        return f"there are {record.num_classes} classes"
    return None


def describe(record: NoiseRecord) -> str:
    """Returns one line on how many labels are wrong."""
    examples = f"{len(record.noisy_labels)} labels, noise {record.kind}"
    if record.clean_labels is None:
        return f"{examples}: without clean labels it is not known how many are wrong"
    wrong = int((record.noisy_labels != record.clean_labels).sum())
    return f"{examples}: {wrong} are wrong, {100 * record.realised_rate:.3f} %"
