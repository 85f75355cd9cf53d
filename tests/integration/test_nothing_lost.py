"""The ways to lose a run, or to harm what is somebody else's, tried on real runs."""

import dataclasses
import json
import shutil
import signal
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from dal_jax.config import DatasetConfig, LossConfig, ModelConfig, TrainConfig
from dal_jax.training import train_and_evaluate
from dal_jax.training.workdir import Workdir

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

OF_0_1_0 = Path(__file__).parents[1] / "golden" / "run_0_1_0.zip"
# As in tests/golden/make_run.py: 4 steps an epoch.
TINY = TrainConfig(
    dataset=DatasetConfig(train_size=16, test_size=10),
    loss=LossConfig("dal", per_epoch=False),  # which was the default
    model=ModelConfig("mlp", hidden=(2,)),
    batch_size=4,
    num_epochs=2,
    checkpoint_every=1,
    keep_checkpoints=1,
)
CONFIG_FILE = f"""
from dal_jax.config import *

def get_config():
    return {TINY!r}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The flag that names a file of this configuration."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG_FILE)
    return f"--config={path}"


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def unpack(directory):
    """Returns a run that version 0.1.0 stopped at step 6 of 8, after one evaluation."""
    with zipfile.ZipFile(OF_0_1_0) as archive:
        archive.extractall(directory)
    return directory


@pytest.fixture
def of_0_1_0(tmp_path):
    return unpack(tmp_path / "old")


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory, command, tiny):
    """Such a run that this version has finished, and what it said; only to read."""
    workdir = unpack(tmp_path_factory.mktemp("old"))
    outcome = command(f"--workdir={workdir}", tiny)
    assert outcome.status == 0, outcome.err
    return workdir, outcome.err


def test_a_run_of_0_1_0_goes_on_and_is_then_finished(gone_on, of_0_1_0, command, tiny):
    before = contents(of_0_1_0)
    workdir, said = gone_on
    assert "going on at step 6 of 8" in said
    after = contents(workdir)
    for name in ("config.json", "noise.npz"):
        assert after[name] == before[name]
    lines = after["metrics.jsonl"].splitlines()
    assert lines[0] == before["metrics.jsonl"].strip()
    assert [json.loads(line)["step"] for line in lines] == [4, 8]
    outcome = command(f"--workdir={workdir}", tiny)
    assert outcome.status == 0
    assert f"already finished; nothing changed in {workdir}" in outcome.err
    assert contents(workdir) == after


def test_a_run_of_0_1_0_with_another_configuration_is_refused(of_0_1_0, command, tiny):
    before = contents(of_0_1_0)
    outcome = command(f"--workdir={of_0_1_0}", tiny, "--config.noise.rate=0.2")
    assert outcome.status == 2
    assert "noise.rate was 0.4, now 0.2)" in outcome.err
    assert contents(of_0_1_0) == before


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_what_another_program_wrote_is_left_alone(flags, command, tiny, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["ResNet"]}')
    (tmp_path / "checkpoints" / "500").mkdir(parents=True)
    (tmp_path / "checkpoints" / "500" / "_METADATA").write_text("{}")
    before = contents(tmp_path)
    outcome = command(f"--workdir={tmp_path}", tiny, *flags)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "config.json, checkpoints" in outcome.err
    assert "--overwrite" not in outcome.err
    assert contents(tmp_path) == before


@pytest.fixture
def answers_sigint():
    """A shell starts processes in the background that ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("answers_sigint")
def test_a_library_call_leaves_the_process_alone_and_can_be_interrupted(
    tmp_path, monkeypatch
):
    """Ctrl-C as in a notebook: a KeyboardInterrupt, and the same call goes on."""
    config = dataclasses.replace(TINY, num_epochs=3, train_eval_size=0)
    reference = train_and_evaluate(config, tmp_path / "reference")

    def owned():
        hooks = (threading.excepthook, sys.excepthook, sys.unraisablehook)
        return (*hooks, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    before, seen, append = owned(), [], Workdir.append_metrics

    def interrupted(files, entry):
        seen.append(owned())
        append(files, entry)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Workdir, "append_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(config, tmp_path / "run")
    assert seen == [before, before]
    assert owned() == before
    said = []
    summary = train_and_evaluate(config, tmp_path / "run", say=said.append)
    assert said[0].startswith("training examples a class: 0 1, 1 2, 2 0")
    assert said[1:] == ["going on at step 4 of 12"]
    assert owned() == before
    untimed = {name for name in summary if "second" not in name}
    assert {name: summary[name] for name in untimed} == {
        name: reference[name] for name in untimed
    }


def test_a_run_whose_checkpoints_are_gone_keeps_its_metrics(
    gone_on, tmp_path, command, tiny
):
    workdir = shutil.copytree(gone_on[0], tmp_path / "run")
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints")
    metrics = (workdir / "metrics.jsonl").read_bytes()
    outcome = command(f"--workdir={workdir}", tiny)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "can be restored" in outcome.err
    assert (workdir / "metrics.jsonl").read_bytes() == metrics
