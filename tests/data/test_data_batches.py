"""Streams give the batches asked for, from any step, by threads or processes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import batches, images
from dal_jax.errors import InputError

pytest.importorskip("grain")


@pytest.fixture
def split(tmp_path):
    for n in range(12):
        path = tmp_path / "class" / f"{n:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 4), (n, 0, 0)).save(path)
    config = DatasetConfig(
        name="folder", train_path=str(tmp_path), storage="stream", cache_dir=""
    )
    return data.load(config).train


ORDER = np.random.default_rng(0).integers(0, 12, [20, 3])


def values(stream):
    stream = list(stream)
    for batch in stream:
        assert batch.shape == (3, 4, 5, 3)
        assert batch.dtype == np.uint8
    return [batch[:, 0, 0, 0].tolist() for batch in stream]


def test_batches_come_in_the_order_given(split):
    assert values(batches.stream(split, ORDER)) == ORDER.tolist()
    assert values(batches.stream(split, ORDER, threads=3)) == ORDER.tolist()


def test_any_step_can_be_the_first(split):
    assert values(batches.stream(split, ORDER[7:])) == ORDER[7:].tolist()
    assert values(batches.stream(split, ORDER[20:])) == []


def test_part_of_a_split(split):
    part = split.take(np.arange(11, 5, -1))
    order = ORDER % 6
    assert values(batches.stream(part, order)) == (11 - order).tolist()


def test_images_in_memory_stream_as_well(split):
    pixels = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    memory = data.Split(pixels, split.labels, split.index, None)
    stream = batches.stream(memory, ORDER)
    assert [batch.ravel().tolist() for batch in stream] == ORDER.tolist()


def test_worker_processes_give_the_same(split):
    for _ in range(2):
        assert values(batches.stream(split, ORDER, workers=2)) == ORDER.tolist()
    part = split.take(np.arange(11, 5, -1))
    order = ORDER % 6
    assert values(batches.stream(part, order, workers=2)) == (11 - order).tolist()


@pytest.mark.parametrize(
    ("cores", "steps", "expected"), [(3, 334, 3), (3, 333, None), (1, 334, None)]
)
def test_by_default_a_worker_a_core_where_it_pays(
    split, monkeypatch, cores, steps, expected
):
    asked = []
    monkeypatch.setattr(batches, "_cores", lambda: cores)
    pool = batches.processes.pool
    monkeypatch.setattr(
        batches.processes, "pool", lambda count: asked.append(count) or pool(1)
    )
    order = np.resize(ORDER, [steps, 3])
    assert values(batches.stream(split, order)) == order.tolist()
    assert asked == ([expected] if expected else [])


def test_arrays_get_no_workers(split, monkeypatch):
    monkeypatch.delattr(batches.processes, "pool")
    pixels = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    arrays = images.ArrayImages(3, 2, pixels)
    memory = data.Split(arrays, split.labels, split.index, None)
    for batch, row in zip(batches.stream(memory, ORDER, workers=2), ORDER, strict=True):
        assert batch[:, 1, 1, 2].tolist() == row.tolist()


def test_stream_left_early_ends(split):
    stream = batches.stream(split, ORDER)
    next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_no_longer_decodes_is_named(split, workers):
    Path(split.inputs.paths[3]).write_bytes(b"spoilt since")
    with pytest.raises(InputError, match=r"image .*03\.png does not decode \(not an"):
        list(batches.stream(split, np.array([[1, 2], [3, 4]]), workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_has_changed_its_size_is_named(split, workers):
    Image.new("RGB", (7, 4)).save(split.inputs.paths[3])
    with pytest.raises(InputError, match=r"03\.png is 7 x 4 pixels, others are 5 x 4"):
        list(batches.stream(split, np.array([[1, 2], [3, 4]]), workers=workers))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (np.arange(3), r"order is int64 \[3\], expected integers"),
        (np.ones([2, 3]), r"order is float64 \[2, 3\], expected integers"),
        (np.array([[0, 12]]), "order has positions 0 to 12, expected 0 to 11"),
        (np.array([[-1, 2]]), "order has positions -1 to 2, expected 0 to 11"),
    ],
)
def test_order_that_does_not_fit_is_refused_before_the_first_batch(
    split, order, message
):
    with pytest.raises(InputError, match=message):
        batches.stream(split, order)
