"""Writes a trained classifier as a file that runs without this package.

    dal-jax export --workdir=DIR --out=PATH [--format=stablehlo|onnx]
                   [--checkpoint=last|best]

The file holds preprocessing, network and softmax and takes any batch size. Beside it
PATH.json names the classes.
"""

from collections.abc import Sequence

from absl import flags

from dal_jax import cli
from dal_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(
        _export, _define_flags, description=__doc__, argv=argv, configured=False
    )


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("workdir", None, "The directory of a finished run."),
        ("out", None, "The file to write; it must not exist yet."),
        ("format", "stablehlo", "stablehlo, or onnx, which needs the extra onnx."),
        ("checkpoint", "last", "last, or best on the noisy validation examples."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)


def _export(values: flags.FlagValues) -> None:
    from dal_jax.export import check_format
    from dal_jax.inference import load

    for name in ("workdir", "out"):
        if not values[name].value:
            raise InputError(f"no --{name}: expected one; give --{name}=PATH")
    check_format(values.format)
    classifier = load(values.workdir, values.checkpoint)
    classifier.export(values.out, values.format)
    print(f"wrote {values.out} and {values.out}.json")
