"""Arrays, folders and lists: what they give, and every wrong one in one line."""

import csv
import os
import threading

import numpy as np
import pytest
from PIL import Image

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import batches, materialize
from dal_jax.errors import InputError


def load(name, **options):
    options = {k: str(v) if hasattr(v, "parts") else v for k, v in options.items()}
    return data.load(DatasetConfig(name=name, **{"cache_dir": "", **options}))


def message(name, **options):
    with pytest.raises(InputError) as error:
        load(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def picture(path, value=0, size=(4, 3), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (value, value, value) if mode == "RGB" else value
    Image.new(mode, size, colour).save(path)


# --- arrays ---------------------------------------------------------------------


def arrays(count=5, shape=(3, 4, 3), dtype=np.uint8):
    values = np.arange(count * int(np.prod(shape))) % 256
    return {
        "images": values.reshape(count, *shape).astype(dtype),
        "labels": np.arange(count) % 3,
    }


def save_npz(path, **changes):
    np.savez(path, **(arrays() | changes))
    return path


def test_npz(tmp_path):
    train = save_npz(tmp_path / "a.npz", clean_labels=np.array([0, 1, 2, 2, 2]))
    test = save_npz(tmp_path / "b.npz", class_names=np.array(["not", "read", "here"]))
    dataset = load("arrays", train_path=train, test_path=test)
    np.testing.assert_array_equal(dataset.train.inputs, arrays()["images"])
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1]
    assert dataset.train.labels.dtype == np.int32
    assert dataset.train.clean_labels.tolist() == [0, 1, 2, 2, 2]
    assert dataset.test.clean_labels is None
    assert dataset.train.index.tolist() == [0, 1, 2, 3, 4]
    assert dataset.train.index_is_original
    assert dataset.class_names == ("0", "1", "2")
    assert load("arrays", train_path=train).test is None


def test_npz_keeps_class_names_and_grey(tmp_path):
    path = save_npz(
        tmp_path / "a.npz",
        images=arrays(shape=(3, 4))["images"],
        class_names=np.array(["ant", "bee", "cat", "dog"]),
    )
    dataset = load("arrays", train_path=path)
    assert dataset.train.inputs.shape == (5, 3, 4, 1)
    assert dataset.class_names == ("ant", "bee", "cat", "dog")
    resized = load("arrays", train_path=path, image_size=8, channels=3)
    assert resized.train.inputs.shape == (5, 8, 8, 3)


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_npy_beside_each_other_are_mapped(tmp_path, storage):
    for key, array in arrays().items():
        np.save(tmp_path / f"train_{key}.npy", array)
    path = tmp_path / "train_images.npy"
    train = load("arrays", train_path=path, storage=storage).train
    assert train.in_memory == (storage == "memory")
    images = np.stack([train.inputs[n] for n in range(5)])
    np.testing.assert_array_equal(images, arrays()["images"])
    assert train.labels.tolist() == [0, 1, 2, 0, 1]


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=arrays()["images"], labels=np.array([{}] * 5, dtype=object))
    assert "nothing pickled" in message("arrays", train_path=path)
    np.save(tmp_path / "images.npy", np.array([{}], dtype=object))
    assert "nothing pickled" in message("arrays", train_path=tmp_path / "images.npy")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": np.arange(4)}, "5 images and 4 labels, expected as many of each"),
        ({"labels": np.array([0, 1, -1, 0, 1])}, "labels[2] is -1, expected at least"),
        ({"labels": np.ones(5)}, "labels are float64 [5], expected integers [N]"),
        ({"labels": np.eye(5, dtype=int)}, "labels are int64 [5, 5], expected integ"),
        ({"clean_labels": np.arange(3)}, "5 images and 3 clean_labels"),
        ({"class_names": np.array(["a", "b"])}, "labels[2] is 2, expected 0 to 1"),
        ({"images": arrays(dtype=np.float32)["images"]}, "images are float32 [5, 3, 4"),
        ({"images": arrays(shape=(3, 4, 2))["images"]}, "images are uint8 [5, 3, 4, 2"),
        (
            {"images": arrays(0)["images"], "labels": np.arange(0)},
            "holds no image",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, changes, expected):
    path = save_npz(tmp_path / "a.npz", **changes)
    line = message("arrays", train_path=path)
    assert expected in line
    assert str(path) in line


def test_label_in_test_beyond_training(tmp_path):
    train = save_npz(tmp_path / "a.npz")
    test = save_npz(tmp_path / "b.npz", labels=np.array([0, 0, 0, 3, 0]))
    line = message("arrays", train_path=train, test_path=test)
    assert f"{test}: labels[3] is 3, expected 0 to 2" in line


def test_array_files_that_are_none(tmp_path):
    assert "needs dataset.train_path" in message("arrays")
    assert "no file" in message("arrays", train_path=tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"no zip")
    assert "does not load" in message("arrays", train_path=tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", x=np.zeros(3), y=np.zeros(3))
    assert "has no images and no inputs, it has x, y" in message(
        "arrays", train_path=tmp_path / "y.npz"
    )
    np.save(tmp_path / "pixels.npy", np.zeros(3))
    assert "put 'images' or 'inputs' into its name" in message(
        "arrays", train_path=tmp_path / "pixels.npy"
    )
    np.save(tmp_path / "images.npy", arrays()["images"])
    assert "has no labels, it has images.npy" in message(
        "arrays", train_path=tmp_path / "images.npy"
    )


def test_shapes_of_train_and_test_must_agree(tmp_path):
    train = save_npz(tmp_path / "a.npz")
    test = save_npz(tmp_path / "b.npz", images=arrays(shape=(5, 4))["images"])
    assert (
        "test inputs are 4 x 5 pixels with 1 channel and training inputs 4 x 3 pixels "
        "with 3 channels" in message("arrays", train_path=train, test_path=test)
    )


def features(count=5, dtype=np.float32):
    values = np.random.default_rng(0).standard_normal((count, 7)).astype(dtype)
    return {"inputs": values, "labels": np.arange(count) % 3}


@pytest.mark.parametrize("storage", ["memory", "stream"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
@pytest.mark.parametrize("form", ["npz", "npy"])
def test_inputs_are_used_as_they_are(tmp_path, form, dtype, storage):
    given = features(dtype=dtype)
    if form == "npz":
        path = tmp_path / "a.npz"
        np.savez(path, **given)
    else:
        path = tmp_path / "train_inputs.npy"
        for key, array in given.items():
            np.save(tmp_path / f"train_{key}.npy", array)
    dataset = load("arrays", train_path=path, test_path=path, storage=storage)
    for split in (dataset.train, dataset.test):
        assert split.in_memory == (storage == "memory")
        assert (split.input_shape, split.input_dtype) == ((7,), dtype)
        order = np.array([[4, 0], [1, 3]])
        stream = batches.stream(split, order, workers=0)
        np.testing.assert_array_equal(list(stream), given["inputs"][order])
        assert split.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_part_of_inputs(tmp_path, storage):
    given = features(count=30)
    for key, array in given.items():
        np.save(tmp_path / f"{key}.npy", array)
    options = {"train_path": tmp_path / "inputs.npy", "storage": storage}
    train = load("arrays", max_classes=2, train_size=6, **options).train
    assert len(train) == 6
    assert train.in_memory == (storage == "memory")
    assert set(train.labels) <= {0, 1}
    np.testing.assert_array_equal(given["labels"][train.index], train.labels)
    for n, index in enumerate(train.index):
        np.testing.assert_array_equal(train.inputs[n], given["inputs"][index])


@pytest.mark.parametrize("limit", [5 * 7 * 4, 5 * 7 * 4 - 1])
def test_size_of_inputs_decides_where_they_live(tmp_path, monkeypatch, limit):
    np.savez(tmp_path / "a.npz", **features())
    monkeypatch.setattr(materialize, "MEMORY_LIMIT", limit)
    train = load("arrays", train_path=tmp_path / "a.npz").train
    assert train.in_memory == (limit == 5 * 7 * 4)


def test_values_that_are_not_finite_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data.blocks, "BLOCK_BYTES", 4 * 14)  # two rows at a time
    given = features()
    path = tmp_path / "a.npz"
    for row, value in ((1, np.nan), (2, np.inf), (3, -np.inf), (4, np.nan)):
        given["inputs"][row, row] = value
        np.savez(path, **given)
        rows = ", ".join(str(n) for n in range(1, min(row, 3) + 1))
        rows += ", ..." * (row > 3)
        assert (
            f"{path}: inputs: {row} of 5 rows hold NaN or infinity (rows {rows}): "
            "expected finite numbers" in message("arrays", train_path=path)
        )


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"inputs": np.ones(5)}, {}, "inputs are float64 [5], expected numbers [N, "),
        ({"inputs": np.full([5, 2], "a")}, {}, "inputs are <U1 [5, 2], expected numb"),
        (
            {"inputs": np.ones([0, 2]), "labels": np.arange(0)},
            {},
            "float64 [0, 2], exp",
        ),
        ({"labels": np.arange(4)}, {}, "5 inputs and 4 labels, expected as many of"),
        ({"images": arrays()["images"]}, {}, "has both images and inputs, it has"),
        ({}, {"channels": 3}, "dataset.channels and dataset.image_size are for images"),
        ({}, {"image_size": 8}, "dataset.channels and dataset.image_size are for ima"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path, changes, options, expected):
    path = tmp_path / "a.npz"
    np.savez(path, **(features() | changes))
    line = message("arrays", train_path=path, **options)
    assert expected in line
    assert str(path) in line


def test_inputs_of_train_and_test_must_agree(tmp_path):
    np.savez(tmp_path / "a.npz", **features())
    np.savez(tmp_path / "b.npz", **features(dtype=np.float16))
    assert "test inputs are float16 [7] and training inputs float32 [7]" in message(
        "arrays", train_path=tmp_path / "a.npz", test_path=tmp_path / "b.npz"
    )


# --- folder ---------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    for n, name in enumerate(["train/dog/b.png", "train/dog/a.JPG", "train/ant/z.png"]):
        picture(tmp_path / name, 40 * n)
    picture(tmp_path / "train/cat/deep/er/c.png", 200)
    picture(tmp_path / "test/cat/x.png", 7)
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    (tmp_path / "train/dog/.hidden.png").write_text("no image")
    (tmp_path / "train/.git").mkdir()
    return tmp_path


def test_folder(root):
    dataset = load("folder", data_dir=root)
    assert dataset.class_names == ("ant", "cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1, 2, 2]
    np.testing.assert_allclose(dataset.train.inputs[:, 0, 0, 0], [80, 200, 40, 0])
    assert dataset.train.index.tolist() == [0, 1, 2, 3]
    assert dataset.train.source_size == 4
    assert dataset.train.clean_labels is None
    assert dataset.train.inputs.shape == (4, 3, 4, 3)
    assert dataset.test.labels.tolist() == [1]
    assert dataset.skipped == ()


def test_what_is_no_image_file_is_named_or_left_out(root):
    eps = root / "train/cat/evil.jpg"
    Image.new("RGB", (4, 3)).save(eps, "EPS")
    pipe = root / "train/dog/pipe.jpg"
    os.mkfifo(pipe)
    seen = []

    def attempt():
        seen.append(message("folder", data_dir=root))
        seen.append(load("folder", data_dir=root, on_unreadable="skip"))

    # A thread that is left behind, should it wait for ever at the pipe.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=30)
    line, dataset = seen
    assert f"2 of 6 images in train do not decode, the first is {eps} (not an" in line
    assert dataset.skipped == (str(eps), str(pipe))
    assert len(dataset.train) == 4


def test_folder_by_train_path_alone_has_no_test(root):
    dataset = load("folder", train_path=root / "train", channels=1)
    assert dataset.test is None
    assert dataset.train.input_shape == (3, 4, 1)
    assert "without test examples" in message(
        "folder", train_path=root / "train", test_size=3
    )


def test_folder_of_its_first_classes(root):
    dataset = load("folder", train_path=root / "train", max_classes=2)
    assert dataset.class_names == ("ant", "cat")
    assert dataset.train.index.tolist() == [0, 1]
    # The only test image is a cat; of another class none would be left.
    (root / "test/cat").rename(root / "test/dog")
    assert "max_classes=2 leaves no test example" in message(
        "folder", data_dir=root, max_classes=2
    )


def test_folder_wrong_places(root):
    assert "needs dataset.train_path" in message("folder")
    assert f"no directory {root}/nope" in message("folder", train_path=root / "nope")
    (root / "empty").mkdir()
    line = message("folder", train_path=root / "empty")
    assert f"{root}/empty holds no directory: expected one per class" in line
    (root / "empty/class").mkdir()
    assert "holds no image" in message("folder", train_path=root / "empty")
    assert f"no directory {root}/other" in message(
        "folder", data_dir=root, test_path="other"
    )


def test_folder_test_class_must_be_one_of_training(root):
    picture(root / "test/emu/x.png")
    line = message("folder", data_dir=root)
    assert f"class 'emu' of {root}/test is not in {root}/train" in line


def test_sizes_that_differ_are_named(root):
    picture(root / "train/dog/big.png", size=(9, 9))
    line = message("folder", data_dir=root)
    assert f"image {root}/train/dog/big.png is 9 x 9 pixels, others are 4 x 3" in line
    assert "dataset.image_size" in line
    assert load("folder", data_dir=root, image_size=3).train.input_shape == (3, 3, 3)


# --- list -----------------------------------------------------------------------


def write_list(path, rows, columns=("path", "label", "clean_label")):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


@pytest.fixture
def images(tmp_path):
    for n in range(4):
        picture(tmp_path / f"{n}.png", 10 * n)
    return tmp_path


def test_list_of_names(images):
    train = write_list(
        images / "train.csv",
        [("2.png", "dog", "dog"), ("0.png", "ant", "cat"), ("1.png", "dog", "ant")],
    )
    test = write_list(images / "test.csv", [("3.png", "cat")], ("path", "label"))
    dataset = load("list", train_path=train, test_path=test)
    assert dataset.class_names == ("ant", "cat", "dog")
    assert dataset.train.labels.tolist() == [2, 0, 2]
    assert dataset.train.clean_labels.tolist() == [2, 1, 0]
    assert dataset.train.inputs[:, 0, 0, 0].tolist() == [20, 0, 10]
    assert dataset.train.index.tolist() == [0, 1, 2]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.test.clean_labels is None


def test_list_of_integers_is_sorted_as_integers(images):
    path = write_list(images / "a.csv", [("1.png", 10, 2), ("0.png", "02", 10)])
    dataset = load("list", train_path=path)
    assert dataset.class_names == tuple(str(label) for label in range(11))
    assert dataset.train.labels.tolist() == [10, 2]
    assert dataset.train.clean_labels.tolist() == [2, 10]


def test_list_by_other_columns_and_directory(images, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists") / "a.csv"
    write_list(elsewhere, [("1.png", "x", "b")], ("path", "note", "given"))
    elsewhere.write_bytes(
        b"\xef\xbb\xbf" + elsewhere.read_bytes()
    )  # as spreadsheets do
    dataset = load("list", train_path=elsewhere, data_dir=images, label_column="given")
    assert dataset.class_names == ("b",)
    assert dataset.train.inputs[0, 0, 0, 0] == 10


def test_clean_labels_do_not_decide_which_of_the_first_classes_are_trained_on(images):
    rows = [("0.png", 0, 1), ("1.png", 1, 2), ("2.png", 2, 0), ("3.png", 1, 1)]
    path = write_list(images / "a.csv", rows)
    train = load("list", train_path=path, max_classes=2).train
    assert train.index.tolist() == [0, 1, 3]
    assert train.clean_labels is None
    path = write_list(images / "b.csv", [rows[0], rows[2], rows[3]])
    train = load("list", train_path=path, max_classes=2).train
    assert train.index.tolist() == [0, 2]
    assert train.clean_labels is not None
    assert train.clean_labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ([("0.png", "a")], ("file", "label"), "has no column 'path', it has file, lab"),
        ([("0.png", "a")], ("path", "y"), "has no column 'label', it has path, y"),
        ([], ("path", "label"), "lists no image"),
        ([("0.png", "a"), ("1.png", "")], ("path", "label"), "row 1 has no label"),
        (
            [("0.png", "1"), ("1.png", "-2")],
            ("path", "label"),
            "row 1 has the label '-2",
        ),
        ([("0.png",)], ("path", "label"), "row 0 has no label"),
    ],
)
def test_lists_that_do_not_fit(images, rows, columns, expected):
    path = write_list(images / "a.csv", rows, columns)
    line = message("list", train_path=path)
    assert expected in line
    assert str(path) in line


def test_list_test_class_must_be_one_of_training(images):
    train = write_list(images / "a.csv", [("0.png", "a", "b")])
    test = write_list(images / "b.csv", [("1.png", "c", "a")])
    line = message("list", train_path=train, test_path=test)
    assert (
        f"{test}: row 0 has the label 'c', expected a class of training (a, b)" in line
    )


def test_list_files_that_are_none(images):
    assert "needs dataset.train_path" in message("list")
    assert "no file" in message("list", train_path=images / "x.csv")
    assert "is no CSV file" in message("list", train_path=images / "0.png")


def test_missing_image_of_a_list_is_named(images):
    path = write_list(images / "a.csv", [("0.png", "a", "a"), ("gone.png", "b", "b")])
    line = message("list", train_path=path)
    assert (
        f"1 of 2 images in train do not decode, the first is {images}/gone.png" in line
    )
