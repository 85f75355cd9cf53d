"""Writes features of a pretrained network for images, as inputs to train on.

    dal-jax embed --model=resnet50 --weights=FILE.safetensors --inputs=PATH
                  --out=features.npy [--image_size=224] [--normalization=imagenet]
                  [--num_processes=4 --process_id=0]

Inputs are a folder of images, which is searched with all that is below it, a CSV file
with a column path, or an .npy or .npz of uint8 images. Beside the array, features.csv
names the image of each row, and its class where the folder has a directory a class or
the list a column label. Train on both with --config=features
--config.dataset.train_path=features.npy --config.dataset.train_labels=features.csv.

The same command goes on where it was stopped. Several processes, on any machines that
share the directory, each with its --process_id, share the work. Images that cannot be
read are named and get no row; the exit status is then 3.
"""

import sys
from collections.abc import Sequence

from absl import flags

from dal_jax import cli
from dal_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(
        _embed, _define_flags, description=__doc__, argv=argv, configured=False
    )


def _define_flags(values: flags.FlagValues) -> None:
    for name, text in (
        ("model", "A network's name, such as resnet50 or vit_small."),
        ("weights", "Its .safetensors file, as timm, torchvision or others write it."),
        ("inputs", "A folder, a .csv, an image, an .npy or an .npz."),
        ("out", ".npy file to write, which must not exist."),
        (
            "normalization",
            "imagenet or inception; default: what weights of this kind expect.",
        ),
    ):
        flags.DEFINE_string(name, None, text, flag_values=values)
    for name, default, least, text in (
        ("image_size", 224, 1, "The side that images are scaled and cropped to."),
        ("channels", 3, 1, "1 or 3."),
        ("batch_size", 64, 1, "Images that are computed together."),
        ("num_processes", 1, 1, "How many processes share the work."),
        ("process_id", 0, 0, "Which of them this is, from 0."),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=least, flag_values=values)
    flags.DEFINE_bool(
        "compilation_cache",
        True,
        "Keep compiled programs for the next time.",
        flag_values=values,
    )


def _embed(values: flags.FlagValues) -> None:
    for name in ("model", "weights", "inputs", "out"):
        if not values[name].value:
            raise InputError(f"no --{name}: expected one; give --{name}=...")

    from dal_jax.embedding import Embedding, embed

    if values.compilation_cache:
        cli.use_compilation_cache()
    wanted = Embedding(
        model=values.model,
        weights=values.weights,
        inputs=values.inputs,
        out=values.out,
        image_size=values.image_size,
        channels=values.channels,
        normalization=values.normalization,
        block_size=values.batch_size,
    )
    try:
        embedded = embed(
            wanted,
            process_id=values.process_id,
            num_processes=values.num_processes,
            progress=True,
        )
    except OSError as error:
        raise InputError(
            f"cannot write {wanted.out} ({error.strerror}): expected a directory of "
            "one's own with room in it; the same command goes on"
        ) from None
    if embedded.missing:
        print(
            f"this share is done; other processes have {embedded.missing} of "
            f"{embedded.total} images to do"
        )
        return
    for name, why in embedded.unreadable.items():
        print(f"left out {name}: {why}", file=sys.stderr)
    rows = embedded.total - len(embedded.unreadable)
    print(f"wrote {wanted.out} and {wanted.table}: {rows} of {embedded.total} images")
    if embedded.unreadable:
        raise SystemExit(3)
