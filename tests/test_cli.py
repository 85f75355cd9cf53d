"""The command line that all commands share."""

import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import cli
from dal_jax.config import LossConfig
from dal_jax.recipe import check

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


def run(*arguments, command=lambda config, values: None):
    cli.run_command(
        command, lambda values: None, description=None, argv=["train.py", *arguments]
    )


def ended(capsys, *arguments):
    """Returns a command's exit status and what it printed as an error."""
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments, command=lambda config, values: check(config))
    return exit_info.value.code, capsys.readouterr().err


def configured(*arguments):
    """Returns the configuration that a command is given."""
    configs = []
    run(*arguments, command=lambda config, values: configs.append(config))
    return configs[0]


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


def test_a_missing_package_is_one_line(capsys):
    def command(config, values):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    with pytest.raises(SystemExit) as exit_info:
        run(command=command)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.startswith("error: PIL is not installed: expected")


@pytest.mark.parametrize(
    "command",
    [
        lambda *_: jnp.zeros(2**45),
        lambda *_: np.zeros(2**45),
        # In XLA's words for a GPU.
        lambda *_: fail("RESOURCE_EXHAUSTED: Failed to allocate 9.6MiB."),
    ],
    ids=["device", "host", "gpu"],
)
def test_a_lack_of_memory_is_one_line(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(command=command)
    assert exit_info.value.code == 1
    line = "error: out of memory; try smaller batches, images or networks, "
    assert capsys.readouterr().err.startswith(line)


def test_other_errors_of_a_command_keep_their_traceback():
    with pytest.raises(RuntimeError, match="a mistake"):
        run(command=lambda *_: fail("a mistake"))


def fail(message):
    raise RuntimeError(message)


def test_the_last_config_file_counts(capsys, tmp_path):
    empty = tmp_path / "empty.py"
    empty.write_text("")
    status, line = ended(capsys, "--config", str(empty), "--config=no.py")
    assert status == 2
    assert "'no.py'" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("q_end=2", {"q_end": 2}),
        ("q_end=2e0 bootstrap=hard", {"q_end": 2.0, "bootstrap": "hard"}),
        ("q_end=2 q_end=None", {}),
        ("per_epoch=true", {"per_epoch": True}),
        ("per_epoch=False", {"per_epoch": False}),
        ("per_epoch=true --noconfig.loss.per_epoch", {"per_epoch": False}),
        (
            "name=gce q=.5 preset=cifar10",
            {"name": "gce", "preset": "cifar10", "q": 0.5},
        ),
        ("name=nlnl class_weights=[1,2]", {"name": "nlnl", "class_weights": [1, 2]}),
        ("preset=cifar10 preset=None", {}),
    ],
)
def test_the_loss_is_set_field_by_field(arguments, expected):
    overrides = [
        word if word.startswith("--") else f"--config.loss.{word}"
        for word in arguments.split()
    ]
    given = {"per_epoch": False} | expected  # as in configs/digits.py
    assert configured(*overrides).loss == LossConfig(**given)


def test_a_value_may_be_an_argument_of_its_own():
    config = configured("--config.loss.q_end", "2", "--config.num_epochs", "3")
    assert config.loss.q_end == 2
    assert config.num_epochs == 3


def test_another_loss_is_named_on_top_of_a_recipe():
    config = configured("--config=configs/cifar100.py", "--config.loss.name=sce")
    assert config.loss == LossConfig("sce", preset="cifar100", per_epoch=True)
    check(config)  # which has no use for per_epoch, and says nothing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("q_ned=2", ["unknown config field 'loss.q_ned'", "mean 'loss.q_end'?"]),
        (
            "name=gce q_end=2",
            ["'gce' has no hyper-parameter 'q_end'", "accepts q"],
        ),
        ("name=gcee", ["unknown loss 'gcee'", "mean 'gce'?"]),
        ("name=None", ["'loss.name' cannot be None"]),
        ("q_end=high", ["q_end=high", "expected a number"]),
        ("q_end=2,3", ["q_end=(2, 3)", "expected a number"]),
        ("q_end=-1", ["q_end=-1 is out of range", "0 or more"]),
        ("bootstrap=sotf", ["unknown bootstrap 'sotf'", "mean 'soft'?"]),
        ("per_epoch=3", ["per_epoch=3", "True or False"]),
        ("name=taylor_ce order=2.5", ["order=2.5", "a whole number"]),
        ("preset=cifar", ["unknown preset 'cifar'"]),
    ],
)
def test_a_wrong_field_of_the_loss_is_one_line(arguments, words, capsys):
    overrides = [f"--config.loss.{field}" for field in arguments.split()]
    status, line = ended(capsys, *overrides)
    assert status == 2
    assert line.count("\n") == 1
    for word in words:
        assert word in line


def test_help_lists_every_name_and_every_hyperparameter_with_its_losses(capsys):
    run("--help")
    printed = capsys.readouterr().out
    for line in (
        "dataset.name: one of digits, ",
        "loss.name: one of ael, agce, ",
        "model.name: one of cnn, linear, ",
        "noise.kind: one of ",
        "optimizer.name: one of adamw, lion, sgd",
        "loss.q: agce, aul, gce, nce_agce",
        "loss.q_end: dal",
    ):
        assert line in printed
