"""Makes the report of a run, finished or not: one page of what happened in training.

    dal-jax report --workdir=DIR

Writes report.html into the run's directory, from what is there: a run that ends makes
it by itself. It is one file that opens offline and prints.
"""

from collections.abc import Sequence

from absl import flags

from dal_jax import cli
from dal_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(
        _report, _define_flags, description=__doc__, argv=argv, configured=False
    )


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", None, "The directory of the run.", flag_values=values
    )


def _report(values: flags.FlagValues) -> None:
    from dal_jax import report
    from dal_jax.training.storing import StorageError

    if not values.workdir:
        raise InputError(
            "nothing to report: expected the directory of a run; give --workdir=DIR"
        )
    try:
        run = report.write(values.workdir)
    except StorageError as error:
        cli.end(error, 1)
    epochs = f"{run.last.get('epoch', 0)} of {run.option.get('num_epochs')} epochs"
    print(f"{run.state}, {epochs}; see {run.files.path / report.PAGE}")
