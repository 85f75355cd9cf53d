"""Finds the labels that are likely wrong in what a finished run was trained on.

    dal-jax audit --workdir=DIR [--top=100]
                  [--write_labels=FILE.npy --action=relabel|remove|corrected]

Writes label_issues.csv (one line per example, the most suspicious first), audit.json
and label_issues.html, a page to look at, into the run's directory. With --write_labels
it also writes labels to train on again: --config.noise.kind=file
--config.noise.path=FILE.npy. Corrections in the last column of label_issues.csv count;
once that file has been changed, it is never overwritten.
"""

import sys
from collections.abc import Sequence

from absl import flags

from dal_jax import cli
from dal_jax.errors import InputError, unknown_name


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(
        _audit, _define_flags, description=__doc__, argv=argv, configured=False
    )


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "workdir", None, "The directory of the finished run.", flag_values=values
    )
    flags.DEFINE_integer(
        "top",
        100,
        "How many examples the page shows.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "write_labels",
        None,
        "A new .npy file for labels to train on again.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "action",
        None,
        "What to do with likely wrong labels: relabel (the suggested class), remove "
        "(left out of training), corrected (only what label_issues.csv corrects).",
        flag_values=values,
    )


def _audit(values: flags.FlagValues) -> None:
    from dal_jax import audit as audits
    from dal_jax.training.storing import StorageError

    if not values.workdir:
        raise InputError(
            "nothing to audit: expected the directory of a finished run; give "
            "--workdir=DIR"
        )
    out, action = values.write_labels, values.action
    if action is not None and action not in audits.ACTIONS:
        raise unknown_name("action", action, audits.ACTIONS)
    if (out is None) != (action is None):
        raise InputError(
            "--write_labels and --action go together: expected a file and what to do "
            "with the likely wrong labels; give both, e.g. --write_labels=labels.npy "
            "--action=relabel"
        )
    if out is not None:
        audits.check_output(out)
    try:
        with audits.audited(values.workdir) as audit:
            # What cannot be written is noticed before anything is.
            labels, line = None, ""
            if action is not None:
                labels, line = audits.new_labels(audit, action)
            audits.write_files(audit, top=values.top, say=_say)
            if out is not None and labels is not None:
                audits.write_labels(out, labels)
            print(audits.describe(audit))
            print(f"see {audit.files.path / audits.PAGE}")
            if labels is not None:
                print(f"wrote {out}: {line}")
    except StorageError as error:
        cli.end(error, 1)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
