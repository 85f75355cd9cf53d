"""What a user gets wrong: status 2, one line that helps, and nothing written."""

import csv
import re

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


def check_refused(outcome, workdir, *words):
    assert outcome.status == 2, outcome.err
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], lines[0]
    assert not workdir.exists()


FIELDS = [
    # the override, and what the line must say
    ("num_epoch=3", "'num_epoch'", "'num_epochs'"),
    ("optimizer.learning_rat=1", "'optimizer.learning_rate'"),
    ("loss=gce", "'loss'", "loss.name"),
    ("rate=0.2", "'rate'", "did you mean 'noise.rate'? dal-jax train --help"),
    ("zzzzz=1", "'zzzzz': expected another name; dal-jax train --help lists all"),
    ("=1", "unknown config field ''"),
    ("num-epochs=1", "'num-epochs': did you mean 'num_epochs'?"),
    ("num_epochs=three", "--config.num_epochs=three: expected an integer; give"),
    ("num_epochs=2.5", "num_epochs", "2.5"),
    ("num_epochs=", "--config.num_epochs=: expected an integer"),
    ("noise.rate=a: b", "--config.noise.rate=a: b: expected a number; give"),
    ("num_epochs=None", "num_epochs", "int"),
    ("optimizer.nesterov=perhaps", "nesterov=perhaps: expected true or false; give"),
    ("model.channels=8,wide", "model.channels", "wide"),
    ("model.channels=0", "model.channels"),
    ("dataset.name=digit", "'digit'", "'digits'", "tfds", "folder"),
    ("loss.name=gcee", "'gcee'", "'gce'", "dal", "mae"),
    ("loss.name=ce --config.loss.q=0.5", "'ce'", "'q'"),
    ("loss.name=gce --config.loss.q_end=1.5", "'gce'", "'q_end'"),
    ("loss.preset=cifar1000", "preset", "cifar"),
    ("loss.bootstrap=sot", "bootstrap", "soft", "hard"),
    ("loss.name=gce --config.loss.q=-1", "q", "-1"),
    ("model.name=cnnn", "'cnnn'", "'cnn'", "mlp"),
    ("noise.kind=symetric", "'symetric'", "'symmetric'", "pair_flip"),
    ("noise.rate=1.5", "rate", "1.5", "[0, 1]"),
    ("noise.rate=-0.1", "rate", "-0.1", "[0, 1]"),
    ("noise.rate=nan", "rate", "nan", "[0, 1]"),
    ("noise.seed=-1", "seed", "-1"),
    ("noise.kind=asymmetric --config.noise.class_map=digit", "'digit'", "'digits'"),
    ("optimizer.schedule=cosin", "'cosin'", "'cosine'", "exponential"),
    ("optimizer.learning_rate=0", "learning_rate", "0"),
    ("optimizer.learning_rate=nan", "learning_rate", "nan"),
    ("optimizer.momentum=1", "momentum", "1"),
    ("optimizer.clip_norm=0", "clip_norm"),
    ("optimizer.warmup_epochs=100", "warmup_epochs", "100"),
    ("precision=float16", "'float16'", "bfloat16", "float32"),
    ("parallel=pmapped", "'pmapped'", "'pmap'", "jit"),
    ("parallel=pmap --config.model_devices=2", "model_devices=2"),
    ("model_devices=0", "model_devices=0"),
    ("model_devices=3", "model_devices=3"),
    ("on_nonfinite=ignore", "'ignore'", "skip", "stop"),
    ("num_epochs=-1", "num_epochs=-1"),
    ("batch_size=0", "batch_size=0"),
    ("batch_size=5000", "batch_size=5000", "1297"),
    ("eval_every=0", "eval_every=0"),
    ("checkpoint_every=0", "checkpoint_every=0"),
    ("keep_checkpoints=0", "keep_checkpoints=0"),
    ("seed=-1", "seed=-1"),
    ("seeds.data_order=-1", "seeds.data_order=-1"),
    ("dataset.validation_fraction=1", "validation_fraction"),
    ("dataset.train_size=99999", "train_size", "1297"),
    ("dataset.train_size=0", "train_size"),
    ("dataset.image_size=100000000", "image_size=100000000: expected 1 to 16384"),
    ("augmentation.mean=0.5,0.5,0.5", "mean", "std"),
    ("augmentation.mean=0.1,0.2 --config.augmentation.std=1.0,1.0", "mean"),
    ("augmentation.std=0.0 --config.augmentation.mean=0.5", "std"),
    ("augmentation.crop_padding=-1", "crop_padding"),
    ("augmentation.mixup=-1", "mixup=-1.0"),
    ("augmentation.mixup=1 --config.loss.name=nlnl", "'nlnl'", "distributions"),
    ("augmentation.normalization=imagnet", "'imagenet'", "inception"),
    ("augmentation.random_erasing=2", "random_erasing", "probability"),
    ("dataset.balance=class", "'classes'"),
    ("dataset.annotators=votes", "'votes'", "majority", "distribution"),
    ("model.freeze=backbon", "'backbone'"),
    ("model.weights=x.pth", "x.pth", "pickle"),
    ("optimizer.schedule=step", "decay_epochs"),
    # What is said of the data comes after the checks.
    ("dataset.balance=classes --config.batch_size=5000", "batch_size=5000"),
]


@pytest.mark.parametrize("case", FIELDS, ids=lambda case: case[0])
def test_a_field(case, command, tmp_path):
    overrides, *words = case
    workdir = tmp_path / "run"
    arguments = re.split(r" (?=--)", f"--config.{overrides}")
    check_refused(command(f"--workdir={workdir}", *arguments), workdir, *words)


CONFIG_FILES = {
    "missing": (None, "not found"),
    "wrong type": ("def get_config():\n    return {'num_epochs': 3}\n", "TrainConfig"),
    "no get_config": ("config = 3\n", "get_config"),
    "does not import": ("import no_such_module_here\n", "no_such_module_here"),
    "does not parse": ("def get_config(:\n", "wrong.py"),
    "raises": ("def get_config():\n    return [][3]\n", "list index out of range"),
    "lacks a file": ("def get_config():\n    open('/no/file')\n", "'/no/file'"),
}


@pytest.mark.parametrize("override", ["", "--config.num_epochs=3"])
@pytest.mark.parametrize("name", CONFIG_FILES)
def test_a_config_file(name, override, command, tmp_path):
    text, *words = CONFIG_FILES[name]
    path = tmp_path / "wrong.py"
    if text is not None:
        path.write_text(text)
    workdir = tmp_path / "run"
    arguments = [f"--config={path}", *filter(None, [override])]
    outcome = command(*arguments, f"--workdir={workdir}")
    check_refused(outcome, workdir, str(path), *words)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("stray", ["'stray'", "--config.FIELD"]),
        ("--workdir=", ["--workdir=", "empty"]),
        ("--noconfig.dedal", ["unknown config field 'dedal'"]),
        (
            "--coordinato=me",
            ["'coordinato'. Did you mean: coordinator; expected a flag"],
        ),
        ("num_epochs=3", ["'num_epochs=3'", "--config.FIELD"]),
        ("--num_epochs=3", ["num_epochs"]),
        ("--coordinator=localhost:1234", ["--num_processes", "--process_id"]),
        ("--distributed=maybe", ["--distributed=maybe: expected one of off, auto;"]),
        ("--overwrite=maybe", ["--overwrite=maybe: expected true or false; give"]),
        ("--nooverwrite=true", ["--nooverwrite=true does not take", "leave out"]),
        ("--connect_seconds=0", ["--connect_seconds=0: expected a positive integer"]),
    ],
)
def test_an_argument(argument, words, command, tmp_path):
    workdir = tmp_path / "run"
    check_refused(command(f"--workdir={workdir}", argument), workdir, *words)


def _labels(count=1797, dtype=np.int64, value=0):
    return np.full(count, value, dtype)


# Labels of the bundled digits are for all 1,797 images or for the 1,297 used.
LABEL_FILES = {
    "length": (_labels(1000), "1000"),
    "dtype": (_labels(dtype=np.float64), "float64"),
    "range": (_labels(value=10), "10"),
    "negative": (_labels(value=-1), "-1"),
    "objects": (np.array([{}], object), "labels.npy"),
    "missing": (None, "labels.npy"),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_label_file(name, command, tmp_path):
    labels, *words = LABEL_FILES[name]
    path = tmp_path / "labels.npy"
    if labels is not None:
        np.save(path, labels, allow_pickle=True)
    workdir = tmp_path / "run"
    outcome = command(
        f"--workdir={workdir}",
        "--config.noise.kind=file",
        f"--config.noise.path={path}",
    )
    check_refused(outcome, workdir, *words)


def test_a_label_file_that_is_not_named(command, tmp_path):
    workdir = tmp_path / "run"
    outcome = command(f"--workdir={workdir}", "--config.noise.kind=file")
    check_refused(outcome, workdir, "noise.path")


def test_a_data_directory_without_the_set(command, tmp_path):
    workdir, data_dir = tmp_path / "run", tmp_path / "data"
    data_dir.mkdir()
    outcome = command(
        f"--workdir={workdir}",
        "--config.dataset.name=tfds",
        "--config.dataset.tfds_name=cifar10",
        f"--config.dataset.data_dir={data_dir}",
    )
    check_refused(outcome, workdir, "cifar10", str(data_dir))
    assert not list(data_dir.iterdir())


def test_an_image_that_does_not_decode(command, tmp_path):
    from PIL import Image

    images = tmp_path / "images"
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 60 * i).save(images / name / f"{i}.png")
    damaged = images / "dog" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    workdir = tmp_path / "run"
    outcome = command(
        f"--workdir={workdir}",
        "--config.dataset.name=folder",
        f"--config.dataset.train_path={images}",
        "--config.batch_size=4",
    )
    check_refused(outcome, workdir, str(damaged))


def test_a_list_without_the_column(command, tmp_path):
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "class"], ["a.png", "cat"]])
    workdir = tmp_path / "run"
    outcome = command(
        f"--workdir={workdir}",
        "--config.dataset.name=list",
        f"--config.dataset.train_path={path}",
    )
    check_refused(outcome, workdir, "label", str(path))


def test_a_workdir_that_is_a_file(command, tmp_path):
    path = tmp_path / "run"
    path.write_text("mine")
    outcome = command(f"--workdir={path}")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert str(path) in outcome.err
    assert path.read_text() == "mine"


def test_a_path_that_no_file_system_takes(command, tmp_path):
    workdir = tmp_path / ("w" * 300)
    outcome = command(f"--workdir={workdir}")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert f"cannot use {workdir}" in outcome.err
    assert "File name too long" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_workdir_below_a_file(command, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    workdir = path / "run"
    outcome = command(f"--workdir={workdir}")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert str(workdir) in outcome.err


class TestTheRealCommand:
    """The same through a process, where nothing of the test's can help."""

    def test_unknown_field(self, run_training, tmp_path):
        workdir = tmp_path / "run"
        outcome = run_training(f"--workdir={workdir}", "--config.num_epoch=3")
        check_refused(outcome, workdir, "'num_epoch'", "'num_epochs'")

    def test_batch_that_the_devices_cannot_share(self, run_training, tmp_path):
        workdir = tmp_path / "run"
        outcome = run_training(
            f"--workdir={workdir}", "--config.batch_size=60", devices=8
        )
        check_refused(outcome, workdir, "batch_size=60", "8 devices", "64")

    def test_a_coordinator_that_is_not_there(self, run_training, tmp_path):
        workdir = tmp_path / "run"
        outcome = run_training(
            f"--workdir={workdir}",
            "--coordinator=localhost:1",
            "--num_processes=2",
            "--process_id=1",
            "--connect_seconds=2",
        )
        check_refused(outcome, workdir, "localhost:1", "2 s")
