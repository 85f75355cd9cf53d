"""Memory or stream, unreadable images, and the cache on disk."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import cache, materialize
from dal_jax.errors import InputError


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(10):
        path = tmp_path / "set" / f"class{n % 2}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, [70, 80, 3], np.uint8)).save(path)
    return tmp_path / "set"


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that are decoded."""
    from dal_jax.data import decode, images

    count = []
    original = decode.decode
    for module in (decode, images):
        monkeypatch.setattr(
            module, "decode", lambda *x, **y: count.append(1) or original(*x, **y)
        )
    return count


def load(root, **options):
    options = {"cache_dir": "", **options}
    return data.load(DatasetConfig(name="folder", train_path=str(root), **options))


def spoil(root, *names):
    for name in names:
        (root / name).write_bytes(b"spoilt")


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_unreadable_stops_with_count_and_path(root, storage):
    spoil(root, "class0/4.png", "class1/1.png")
    with pytest.raises(InputError) as error:
        load(root, storage=storage)
    assert str(error.value).startswith(
        f"2 of 10 images in train do not decode, the first is {root}/class0/4.png "
        "(not an image in a known format"
    )
    assert str(error.value).endswith("set dataset.on_unreadable=skip")


@pytest.mark.parametrize("cache_dir", ["", "cache"])
@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_unreadable_is_left_out_by_option(root, storage, cache_dir):
    whole = load(root).train
    spoil(root, "class0/4.png", "class1/1.png")
    if cache_dir:
        cache_dir = str(root.parent / cache_dir)
    for _ in range(2):
        dataset = load(root, storage=storage, on_unreadable="skip", cache_dir=cache_dir)
        assert dataset.skipped == (f"{root}/class0/4.png", f"{root}/class1/1.png")
        assert dataset.train.index.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
        assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
        assert dataset.train.source_size == 10
        images = np.stack([dataset.train.inputs[n] for n in range(8)])
        np.testing.assert_array_equal(images, whole.inputs[dataset.train.index])
    # What skipping has cached must not let a run through that is to stop.
    with pytest.raises(InputError, match="2 of 10 images"):
        load(root, storage=storage, cache_dir=cache_dir)


def test_all_unreadable_stops_even_when_skipping(root):
    spoil(root, *(f"class{n % 2}/{n}.png" for n in range(10)))
    with pytest.raises(InputError, match="none of 10 images decodes"):
        load(root, on_unreadable="skip")
    with pytest.raises(InputError, match=r"10 of 10 .* expected image files that Pil"):
        load(root, on_unreadable="skip", image_size=8)


def test_size_decides_where_images_live(root, monkeypatch):
    assert load(root).train.in_memory
    monkeypatch.setattr(materialize, "MEMORY_LIMIT", 10 * 70 * 80 * 3 - 1)
    streamed = load(root).train
    assert not streamed.in_memory
    assert load(root, storage="memory").train.in_memory
    assert load(root, train_size=9).train.in_memory
    assert load(root, image_size=8).train.in_memory
    assert streamed.input_shape == (70, 80, 3)


def test_a_missing_grain_is_noticed_before_anything_is_decoded(
    root, decoded, monkeypatch
):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(InputError, match="grain, which is not installed"):
        load(root, storage="stream")
    assert len(decoded) == 1  # which tells the size of all
    assert len(load(root).train) == 10  # what is in memory needs none


def test_subset_decodes_only_itself(root, decoded):
    assert len(load(root, train_size=3, image_size=8).train) == 3
    assert len(decoded) == 3


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_cache_spares_decoding_and_changes_nothing(root, decoded, storage):
    options = {"cache_dir": str(root.parent / "cache"), "storage": storage}
    first = load(root, image_size=8, **options).train
    assert len(decoded) == 10
    second = load(root, image_size=8, **options).train
    assert len(decoded) == 10
    for one, two in ((first, second), (second, load(root, image_size=8).train)):
        for n in range(10):
            np.testing.assert_array_equal(one.inputs[n], two.inputs[n])
        np.testing.assert_array_equal(one.labels, two.labels)


def test_whatever_decides_the_pixels_is_in_the_key(root, decoded):
    options = {"cache_dir": str(root.parent / "cache"), "storage": "memory"}
    load(root, **options)
    for change, count in (
        ({"image_size": 70}, 10),
        ({"channels": 1}, 10 + 1),  # one for the size of all
        ({"train_size": 10}, 0 + 1),
        ({"train_size": 9}, 9 + 1),
    ):
        before = len(decoded)
        load(root, **options, **change)
        assert len(decoded) - before == count, change
    path = root / "class0/0.png"
    Image.new("RGB", (80, 70), (1, 2, 3)).save(path)
    assert load(root, **options).train.inputs[0, 0, 0].tolist() == [1, 2, 3]


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip_last_byte(path):
    *rest, last = path.read_bytes()
    path.write_bytes(bytes([*rest, last ^ 1]))


def name_another_row(path):
    text = path.read_text()
    assert "[[5, " in text
    path.write_text(text.replace("[[5, ", "[[6, "))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.npy", truncate),
        ("images.npy", flip_last_byte),
        ("images.npy", Path.unlink),
        ("notes.json", name_another_row),
        ("notes.json", Path.unlink),
        ("notes.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_entry_is_made_anew(root, decoded, name, damage):
    spoil(root, "class1/1.png")
    options = {"cache_dir": str(root.parent / "cache"), "on_unreadable": "skip"}
    expected = load(root, **options)
    pixels = expected.train.inputs.copy()
    (path,) = (root.parent / "cache").glob(f"*/{name}")
    whole = path.read_bytes()
    damage(path)
    once = len(decoded)
    for _ in range(2):
        again = load(root, **options)
        np.testing.assert_array_equal(again.train.inputs, pixels)
        assert again.skipped == expected.skipped
    assert path.read_bytes() == whole
    assert len(decoded) == 2 * once + 1  # and one for the size of all, later


def test_cache_that_cannot_be_written_costs_nothing(root):
    (root.parent / "file").write_text("no directory")
    assert len(load(root, cache_dir=str(root.parent / "file")).train) == 10


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    cache.write(tmp_path, "entry", {"images": np.zeros(3)}, [])
    assert list(tmp_path.iterdir()) == []
    assert cache.read(tmp_path, "entry") is None


def test_default_directory_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory(None) == tmp_path / "dal_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory(None) == tmp_path / ".cache" / "dal_jax"
    assert cache.directory("") is None
