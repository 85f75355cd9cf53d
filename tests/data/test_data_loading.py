"""Digits, and what is common to all sources: subsets, classes, sizes, bad input."""

import numpy as np
import pytest

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import Split, batches
from dal_jax.data.split import Subset
from dal_jax.errors import InputError


def load(**options):
    return data.load(DatasetConfig(cache_dir="", **options))


def test_digits_are_sklearns_by_index():
    from sklearn.datasets import load_digits

    dataset = load(name="digits")
    bunch = load_digits()
    for split, size in ((dataset.train, 1297), (dataset.test, 500)):
        assert split.inputs.shape == (size, 8, 8, 1)
        assert split.inputs.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.index.dtype == np.int64
        assert split.in_memory
        np.testing.assert_array_equal(split.labels, bunch.target[split.index])
        np.testing.assert_array_equal(split.clean_labels, split.labels)
        expected = np.floor(bunch.images[split.index] * 255 / 16 + 0.5)
        np.testing.assert_array_equal(split.inputs[..., 0], expected)
    both = np.concatenate([dataset.train.index, dataset.test.index])
    assert sorted(both) == list(range(1797))
    assert dataset.train.source_size == 1797
    assert dataset.class_names == tuple("0123456789")


def test_digits_are_shuffled_the_same_way_every_time():
    first, second = load(name="digits"), load(name="digits")
    np.testing.assert_array_equal(first.train.index, second.train.index)
    # A later numpy must not silently move examples between the splits.
    assert first.train.index[:5].tolist() == [1126, 129, 211, 1068, 556]


def test_subset_is_fixed_nested_and_keeps_the_index():
    whole = load(name="digits")
    small = load(name="digits", train_size=50, test_size=20)
    large = load(name="digits", train_size=200)
    assert len(small.train) == 50
    assert len(small.test) == 20
    assert set(small.train.index) < set(large.train.index) < set(whole.train.index)
    np.testing.assert_array_equal(
        small.train.index, load(name="digits", train_size=50).train.index
    )
    position = {index: n for n, index in enumerate(whole.train.index)}
    taken = [position[index] for index in small.train.index]
    assert taken == sorted(taken)
    np.testing.assert_array_equal(small.train.inputs, whole.train.inputs[taken])
    np.testing.assert_array_equal(small.train.labels, whole.train.labels[taken])
    assert small.train.source_size == 1797


def test_max_classes_keeps_the_first():
    dataset = load(name="digits", max_classes=3)
    assert dataset.class_names == ("0", "1", "2")
    whole = load(name="digits")
    for split, all_of_it in ((dataset.train, whole.train), (dataset.test, whole.test)):
        assert set(split.labels) == {0, 1, 2}
        assert len(split) == (all_of_it.labels < 3).sum()


def test_image_size_and_channels_apply_to_arrays_in_memory():
    dataset = load(name="digits", image_size=4, channels=3, train_size=10)
    assert dataset.train.inputs.shape == (10, 4, 4, 3)
    assert dataset.test.input_shape == (4, 4, 3)
    pixels = dataset.train.inputs
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_images_in_memory_are_streamed_where_that_is_asked_for():
    streamed = load(name="digits", storage="stream", train_size=10).train
    assert not streamed.in_memory
    kept = load(name="digits", train_size=10).train
    assert kept.in_memory
    order = np.arange(9, -1, -1).reshape(2, 5)
    stream = batches.stream(streamed, order)
    np.testing.assert_array_equal(np.stack(list(stream)), kept.inputs[order])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digts"}, "unknown dataset 'digts': did you mean 'digits'? Known: a"),
        ({"train_size": 1298}, "dataset.train_size=1298: expected 1 to 1297"),
        ({"test_size": 0}, "dataset.test_size=0: expected 1 to 500"),
        ({"max_classes": 11}, "dataset.max_classes=11: expected 2 to 10"),
        ({"max_classes": 1}, "dataset.max_classes=1: expected 2 to 10"),
        ({"storage": "disk"}, "dataset.storage=disk: expected auto or memory or str"),
        ({"on_unreadable": "x"}, "dataset.on_unreadable=x: expected stop or skip"),
        ({"channels": 4}, "dataset.channels=4: expected 1 or 3"),
        ({"image_size": 0}, "dataset.image_size=0: expected 1 to 16384"),
        ({"workers": -1}, "dataset.workers=-1: expected 0 or more"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError) as error:
        load(**{"name": "digits", **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_split_take_of_a_stream_composes():
    class Source:
        shape = (1, 1, 1)
        dtype = np.dtype(np.uint8)

        def __len__(self):
            return 6

        def __getitem__(self, position):
            return np.full((1, 1, 1), position, np.uint8)

    labels = np.arange(6, dtype=np.int32)
    split = Split(Source(), labels, np.arange(6) + 10, labels + 1)
    part = split.take([5, 3, 1]).take([2, 0])
    assert not part.in_memory
    assert isinstance(part.inputs, Subset)
    assert [int(part.inputs[n][0, 0, 0]) for n in range(len(part))] == [1, 5]
    assert part.index.tolist() == [11, 15]
    assert part.clean_labels.tolist() == [2, 6]


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (np.zeros([4, 3, 2, 1], np.uint8), np.arange(4)),
        (np.ones([4, 7], np.float16), np.arange(4)),
        (np.ones([4, 5], np.int32), np.ones([4, 5], np.int64)),
    ],
    ids=["images", "features", "tokens"],
)
def test_split_takes_inputs_of_any_shape_and_dtype(inputs, labels):
    split = Split(inputs, labels)
    assert split.inputs is inputs
    assert (split.input_shape, split.input_dtype) == (inputs.shape[1:], inputs.dtype)
    assert split.index.tolist() == [0, 1, 2, 3]
    assert split.source_size == 4
    assert split.clean_labels is None
    taken = split.take([3, 0])
    np.testing.assert_array_equal(taken.inputs, inputs[[3, 0]])
    np.testing.assert_array_equal(taken.labels, labels[[3, 0]])
    assert taken.index.tolist() == [3, 0]


def test_split_of_a_mapped_file_stays_in_the_file(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(12).reshape(4, 3))
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    split = Split(mapped, np.arange(4))
    assert split.inputs is mapped
    assert not split.in_memory
    part = split.take([3, 1, 0]).take([1, 2])
    assert isinstance(part.inputs, Subset)
    assert part.inputs.source is mapped
    assert (part.input_shape, part.input_dtype) == ((3,), mapped.dtype)
    streamed = list(batches.stream(part, np.array([[1, 0]])))
    np.testing.assert_array_equal(streamed, mapped[[[0, 1]]])


@pytest.mark.parametrize(
    ("labels", "index", "clean_labels", "message"),
    [
        (np.zeros(3), np.arange(3), None, "2 inputs, 3 labels and 3 indices"),
        (np.zeros(2), None, None, "labels are float64 [2]: expected integers"),
        ([0, 1], None, [0.0, 1.0], "clean labels are float64 [2]: expected integers"),
        ([0, 1], None, [0], "shape [2] and clean labels [1]: expected the same"),
    ],
)
def test_split_that_does_not_fit_is_refused(labels, index, clean_labels, message):
    with pytest.raises(InputError) as error:
        Split(np.zeros([2, 1, 1, 1], np.uint8), labels, index, clean_labels)
    assert message in str(error.value)


def test_validation_split_is_a_fixed_partition():
    train, validation = data.validation_split(101, 0.1)
    assert len(validation) == 10
    np.testing.assert_array_equal(
        np.sort(np.concatenate([train, validation])), np.arange(101)
    )
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    np.testing.assert_array_equal(validation, data.validation_split(101, 0.1)[1])
    other = data.validation_split(101, 0.1, seed=1)[1]
    assert not np.array_equal(validation, other)
    everything, nothing = data.validation_split(5, 0.0)
    assert everything.tolist() == [0, 1, 2, 3, 4]
    assert nothing.size == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.01, 0.99])
def test_validation_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match=r"dataset\.validation_fraction="):
        data.validation_split(10, fraction)


def test_digits_are_scikit_learns_with_the_file_or_without(monkeypatch):
    from sklearn.datasets import load_digits

    from dal_jax.data import digits

    expected = load_digits(return_X_y=True)
    for found in (digits._read(), _without_the_file(digits, monkeypatch)):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def _without_the_file(digits, monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    return digits._read()
