"""The command line that all commands share."""

import pytest

from dal_jax import cli


def ended(capsys, *arguments):
    """Returns a command's exit status and what it printed as an error."""
    with pytest.raises(SystemExit) as exit_info:
        cli.run_command(
            lambda config, values: None,
            lambda values: None,
            description=None,
            argv=["train.py", *arguments],
        )
    return exit_info.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=no.py"],
        ["--config", "no.py"],
        ["-config", "no.py", "--config.seed=1"],
    ],
    ids=" ".join,
)
def test_a_config_file_that_is_not_there_is_named(arguments, capsys):
    status, line = ended(capsys, *arguments)
    assert status == 2
    assert "config file 'no.py' not found" in line


def test_the_last_config_file_counts(capsys, tmp_path):
    empty = tmp_path / "empty.py"
    empty.write_text("")
    status, line = ended(capsys, "--config", str(empty), "--config=no.py")
    assert status == 2
    assert "'no.py'" in line
