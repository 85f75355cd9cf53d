"""Classifies new inputs with a finished run.

    dal-jax predict --workdir=DIR --inputs=PATH --out=predictions.csv
                    [--top=3] [--checkpoint=last|best]

Inputs are a folder of images, searched together with the folders below it, a CSV file
with a column path, a single image, an .npy, an .npz or a .parquet. The CSV that is
written has one line per input: its name, the predicted class and its probability, and
the next classes with theirs. Inputs that cannot be read are named and left out; the
exit status is then 3.
"""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from absl import flags

from dal_jax import cli
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.progress import progress_bar

if TYPE_CHECKING:
    from dal_jax.data.unlabelled import Unlabelled
    from dal_jax.inference import Classifier


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(
        _predict, _define_flags, description=__doc__, argv=argv, configured=False
    )


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("workdir", None, "The directory of a finished run."),
        ("inputs", None, "A folder, a .csv, an image, an .npy, .npz or .parquet."),
        ("out", None, "The CSV file to write; it must not exist yet."),
        ("checkpoint", "last", "last, or best on the noisy validation examples."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.DEFINE_integer(
        "top",
        3,
        "How many classes a line has, the most probable first.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "compilation_cache",
        True,
        "Keep compiled programs for the next time.",
        flag_values=values,
    )


def _predict(values: flags.FlagValues) -> None:
    for name in ("workdir", "inputs", "out"):
        if not values[name].value:
            raise InputError(f"no --{name}: expected one; give --{name}=PATH")
    out = Path(values.out)
    if out.exists() or out.is_symlink():
        raise InputError(
            f"--out={out} already exists: expected a new file; give another --out"
        )
    if not out.parent.is_dir():
        raise InputError(
            f"the directory {out.parent} does not exist: expected one to write "
            f"{out.name} to; create it or give another --out"
        )

    from dal_jax.data.unlabelled import find
    from dal_jax.inference import load

    if values.compilation_cache:
        cli.use_compilation_cache()
    classifier = load(values.workdir, values.checkpoint)
    found = find(values.inputs, classifier.form.columns or None)
    unreadable: dict[str, str] = {}
    try:
        write_atomically(
            out, lambda file: _write(file, classifier, found, values.top, unreadable)
        )
    except OSError as error:
        raise InputError(
            f"cannot write {out} ({error.strerror}): expected a directory that you may "
            "write to, with room in it; give another --out"
        ) from None
    for name, why in unreadable.items():
        print(f"left out {name}: {why}", file=sys.stderr)
    print(f"wrote {out}: {len(found) - len(unreadable)} of {len(found)} inputs")
    if unreadable:
        raise SystemExit(3)


def _write(
    binary: BinaryIO,
    classifier: "Classifier",
    found: "Unlabelled",
    top: int,
    unreadable: dict[str, str],
) -> None:
    """Writes the lines as they are predicted; collects what cannot be read."""
    from scipy.special import softmax

    top = min(top, len(classifier.class_names))
    file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
    lines = csv.writer(file, lineterminator="\n")
    further = [f"{x}_{i}" for i in range(2, top + 1) for x in ("class", "probability")]
    lines.writerow(["name", "predicted", "probability", *further])
    # disable=None: no bar where nobody watches.
    with progress_bar(total=len(found), unit="input", disable=None, leave=False) as bar:
        for batch in classifier.in_batches(found.inputs):
            if batch.logits.ndim != 2:
                raise InputError(
                    "the run predicts several labels for each input: expected one; use "
                    "dal_jax.load(workdir).predict_proba"
                )
            # Sorted by logits, because probabilities near 1 may be equal.
            order = np.argsort(-batch.logits, axis=1, kind="stable")[:, :top]
            chosen = np.take_along_axis(softmax(batch.logits, axis=1), order, axis=1)
            for i, classes, shares in zip(batch.positions, order, chosen, strict=True):
                line = [found.names[i]]
                for number, share in zip(classes, shares, strict=True):
                    line += [classifier.class_names[number], f"{share:.6f}"]
                lines.writerow(line)
            unreadable |= {found.names[i]: x for i, x in batch.unreadable.items()}
            bar.update(len(batch.positions) + len(batch.unreadable))
    file.detach()
