"""``dal-jax embed``: rows, names, stops at any moment, shares, refusals."""

import csv
import itertools
import os
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from dal_jax import data, models, partial
from dal_jax.commands.embed import main
from dal_jax.config import DatasetConfig

SIDE, BLOCK = 8, 4
CLASSES = ("ant", "bee")
SCRIPT = "from dal_jax.commands.embed import main; main()"


class Killed(BaseException):
    """What stops the command where nothing may follow, as a kill does."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """22 images of two classes: six blocks, the last of two; one does not decode."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(22):
        path = folder / CLASSES[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "bee" / "05.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory, compilation_cache):
    network = nnx.jit(
        lambda key: models.create(
            "mlp", image_shape=(SIDE, SIDE, 3), num_classes=5, rngs=key
        )
    )(jax.random.key(0))
    path = tmp_path_factory.mktemp("weights") / "mlp.safetensors"
    models.save_weights(network, path)
    return network, path


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """Weights whose last layer is kept: the least to compile, for many commands."""
    network = models.create(
        "linear", image_shape=(SIDE, SIDE, 3), num_classes=1, rngs=jax.random.key(0)
    )
    path = tmp_path_factory.mktemp("weights") / "linear.safetensors"
    models.save_weights(network, path)
    return path


@pytest.fixture
def command(network, images, tmp_path, capsys):
    def run(**flags):
        given = {
            "model": "mlp",
            "weights": network[1],
            "inputs": images,
            "out": tmp_path / "f.npy",
            "image_size": SIDE,
            "batch_size": BLOCK,
            "normalization": "imagenet",
        } | flags
        argv = ["dal-jax embed", *(f"--{k}={v}" for k, v in given.items() if v != "")]
        status = 0
        try:
            main(argv)
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def whole(network, images, tmp_path_factory):
    """The two files, written without a stop."""
    out = tmp_path_factory.mktemp("whole") / "f.npy"
    with pytest.raises(SystemExit) as caught:
        main(
            [
                *("embed", "--model=mlp", f"--weights={network[1]}"),
                *(f"--inputs={images}", f"--out={out}", f"--image_size={SIDE}"),
                *(f"--batch_size={BLOCK}", "--normalization=imagenet"),
            ]
        )
    assert caught.value.code == 3
    return out


def same(whole, out):
    assert out.read_bytes() == whole.read_bytes()
    assert (
        out.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    )
    assert not out.with_name(f"{out.name}.partial").exists()


def test_rows_are_the_features_of_the_images(whole, network, images):
    with whole.with_suffix(".csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = np.load(whole)
    assert rows.shape == (21, 128)
    assert rows.dtype == np.float32
    assert len(lines) == 21
    mean, std = models.normalization("imagenet")
    pixels = np.stack([np.asarray(Image.open(images / line["path"])) for line in lines])
    inputs = ((pixels / 255 - np.array(mean)) / np.array(std)).astype(np.float32)
    expected = models.feature_function(network[0])(inputs)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    assert [line["label"] for line in lines] == [x["path"][:3] for x in lines]
    assert "bee/05.png" not in [line["path"] for line in lines]


def test_what_is_written_can_be_trained_on(whole):
    config = DatasetConfig(
        "arrays", train_path=str(whole), train_labels=str(whole.with_suffix(".csv"))
    )
    dataset = data.load(config)
    assert dataset.class_names == CLASSES
    assert dataset.train.names[0] == "ant/00.png"
    assert np.bincount(dataset.train.labels).tolist() == [11, 10]


@pytest.mark.parametrize("kind", ["ant", "bee"])
def test_a_stop_at_any_moment_changes_nothing(
    command, images, linear, tmp_path, monkeypatch, kind
):
    """Stopped at each sync to the disk in turn, half of the last line written."""
    sync, out, expected = os.fsync, tmp_path / "f.npy", tmp_path / "expected.npy"
    status = 3 if kind == "bee" else 0  # one of these does not decode
    flags = {"inputs": images / kind, "batch_size": 6}
    flags |= {"model": "linear", "weights": linear}
    assert command(**flags, out=expected)[0] == status
    for stop in itertools.count(1):
        calls = itertools.count(1)

        def fsync(number, stop=stop, calls=calls):
            if next(calls) == stop:
                raise Killed
            sync(number)

        monkeypatch.setattr(os, "fsync", fsync)
        try:
            command(**flags)
            break
        except Killed:
            monkeypatch.setattr(os, "fsync", sync)
            for file in (tmp_path / "f.npy.partial").glob("done-*"):
                if not out.exists():
                    file.write_bytes(file.read_bytes()[:-3])
            assert command(**flags)[0] == status
            same(expected, out)
            out.unlink()
            out.with_suffix(".csv").unlink()
    assert stop > 8


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_processes_share_the_work(command, whole, tmp_path, order):
    for number in order[:2]:
        status, printed, _ = command(num_processes=3, process_id=number)
        assert (status, printed[:18]) == (0, "this share is done")
        assert not (tmp_path / "f.npy").exists()
    if order[-1] == 1:
        assert command(num_processes=3, process_id=order[-1])[0] == 3
    else:  # another number of processes goes on
        assert command()[0] == 3
    same(whole, tmp_path / "f.npy")


def test_a_killed_process_is_gone_on_with(
    network, images, whole, tmp_path, start_script, command
):
    script, out = tmp_path / "embed.py", tmp_path / "f.npy"
    script.write_text(SCRIPT)
    process = start_script(
        script,
        *("--model=mlp", f"--weights={network[1]}", f"--inputs={images}"),
        *(f"--out={out}", f"--image_size={SIDE}", f"--batch_size={BLOCK}"),
        "--normalization=imagenet",
    )
    done = tmp_path / "f.npy.partial" / "done-0"
    process.wait_until(lambda: process.status == 3 or done.exists())
    process.kill()
    if not out.exists():
        assert command()[0] == 3
    same(whole, out)


def test_what_is_there_is_left_alone(command, tmp_path):
    for name in ("f.npy", "f.csv"):
        (tmp_path / name).write_text("mine")
        status, printed, errors = command()
        assert (status, printed) == (2, "")
        assert f"{name} exists: expected a new file" in errors
        assert (tmp_path / name).read_text() == "mine"
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_unfinished_work_of_another_kind_is_refused(command, tmp_path):
    assert command(num_processes=2)[0] == 0
    status, _, errors = command(num_processes=2, normalization="inception")
    assert status == 2
    assert "unfinished work of another normalization, {'mean': [0.485" in errors
    with partial.PartialArray(tmp_path / "f.npy.partial").writer(1):
        status, _, errors = command(num_processes=2, process_id=1)
    assert status == 2
    assert "process 1 is at work" in errors


CASES = {
    "model": ({"model": "resnet19"}, "unknown model 'resnet19'"),
    "no weights": ({"weights": ""}, "no --weights"),
    "weights": ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
    "inputs": ({"inputs": "nowhere"}, "no file or folder nowhere"),
    "out": ({"out": "features.npz"}, "ends in .npy"),
    "place": ({"out": "nowhere/at/all.npy"}, "no directory nowhere/at"),
    "size": ({"image_size": 0}, "image_size=0"),
    "batch": ({"batch_size": 0}, "--batch_size=0"),
    "large": ({"image_size": 10**8}, "image_size=100000000: expected 1 to 16384"),
    "long": ({"inputs": "x" * 300}, "no file or folder xxx"),
    "long out": ({"out": "x" * 300 + ".npy"}, "File name too long"),
    "channels": ({"channels": 2}, "--channels=2: expected 1 or 3"),
    "process": ({"process_id": 1}, "process 1 of 1"),
    "processes": ({"num_processes": 0}, "--num_processes=0: expected a positive"),
    "other network": ({"model": "linear"}, "give those of this network"),
    "no normalization": ({"normalization": ""}, "do not tell how pixels are norm"),
    "normalization": ({"normalization": "imagnet"}, "did you mean 'imagenet'?"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(command, tmp_path, name):
    flags, expected = CASES[name]
    status, printed, errors = command(**flags)
    assert (status, printed) == (2, "")
    assert len(errors.splitlines()) == 1
    assert expected in errors
    assert list(tmp_path.iterdir()) == []


def test_images_of_which_none_can_be_read(command, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    (folder / "zero.csv").write_bytes(b"path\na\0b.png\n")
    for inputs in (folder, folder / "zero.csv"):
        status, printed, errors = command(inputs=inputs)
        assert (status, printed) == (2, "")
        assert "none of 1 images can be read" in errors
        assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_array_and_a_list(command, whole, images, tmp_path):
    names = [f"ant/{n:02d}.png" for n in range(0, 22, 2)]
    pixels = np.stack([np.asarray(Image.open(images / name)) for name in names])
    np.save(tmp_path / "images.npy", pixels)
    lines = [f"{images / name},ant,2024" for name in names]
    (tmp_path / "list.csv").write_text("path,label,year\n" + "\n".join(lines))
    expected = np.load(whole)[:11]
    for name in ("images.npy", "list.csv"):
        out = tmp_path / f"of_{name[:4]}.npy"
        assert command(inputs=tmp_path / name, out=out)[0] == 0
        np.testing.assert_allclose(np.load(out), expected, rtol=1e-5, atol=1e-6)
    with out.with_suffix(".csv").open(newline="") as file:
        assert next(csv.DictReader(file)) == {
            "path": str(images / names[0]),
            "label": "ant",
        }


def test_a_missing_grain_is_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    status, printed, errors = command()
    assert (status, printed, len(errors.splitlines())) == (2, "", 1)
    assert "grain, which is not installed" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(command, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial, "_reserve", full)
    status, printed, errors = command()
    assert (status, printed) == (2, "")
    assert "No space left on device" in errors
    assert list(tmp_path.iterdir()) == []
