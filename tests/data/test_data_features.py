"""Features and tables: files of inputs and labels, what is refused, statistics."""

import contextlib
import os
import threading

import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import nnx

from dal_jax import data, losses, noise, training
from dal_jax.config import DatasetConfig
from dal_jax.data import blocks, standardize
from dal_jax.data.split import Subset
from dal_jax.data.unlabelled import find
from dal_jax.errors import InputError

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2, 0, 1])
CLEAN = np.array([0, 2, 1, 1, 0, 1])
TEXT = np.array(["ant", "bee", "cat"])


def load(**options):
    given = {name: str(value) for name, value in options.items()}
    return data.load(DatasetConfig(name="arrays", cache_dir="", **given))


def message(**options):
    with pytest.raises(InputError) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def features(tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    return tmp_path / "features.npy"


def test_labels_have_a_file_of_their_own(features, tmp_path):
    np.save(tmp_path / "a.npy", LABELS)
    np.savez(tmp_path / "b.npz", labels=LABELS, clean_labels=CLEAN, class_names=TEXT)
    lines = [
        f"{i}.jpg,{a},{b}"
        for i, (a, b) in enumerate(zip(TEXT[LABELS], TEXT[CLEAN], strict=True))
    ]
    (tmp_path / "c.csv").write_text("path,label,clean_label\n" + "\n".join(lines))
    for name, classes in (("a.npy", "012"), ("b.npz", TEXT), ("c.csv", TEXT)):
        found = load(train_path=features, train_labels=tmp_path / name)
        np.testing.assert_array_equal(found.train.inputs, FEATURES)
        np.testing.assert_array_equal(found.train.labels, LABELS)
        assert found.class_names == tuple(classes)
        if name != "a.npy":
            np.testing.assert_array_equal(found.train.clean_labels, CLEAN)
    assert found.train.names[1] == "1.jpg"
    other = load(
        train_path=features,
        train_labels=tmp_path / "c.csv",
        test_path=features,
        test_labels=tmp_path / "c.csv",
        label_column="clean_label",
    )
    np.testing.assert_array_equal(other.test.labels, CLEAN)


def test_files_that_do_not_belong_together(features, tmp_path):
    np.save(tmp_path / "a.npy", LABELS)
    np.save(tmp_path / "b.npy", LABELS[:5])
    np.savez(tmp_path / "c.npz", x=LABELS)
    (tmp_path / "d.csv").write_text("path,label\na,ant\nb,\n")
    (tmp_path / "e.txt").write_text("0")
    for name, expected in (
        ("b.npy", "6 inputs and 5 labels"),
        ("c.npz", "c.npz has no labels, it has x"),
        ("d.csv", "row 1 has no label"),
        ("e.txt", "holds no labels"),
        ("f.npy", "there is no file"),
    ):
        line = message(train_path=features, train_labels=tmp_path / name)
        assert expected in line
    assert "set dataset.train_labels" in message(train_path=features)
    assert "without dataset.test_path" in message(
        train_path=features,
        train_labels=tmp_path / "a.npy",
        test_labels=tmp_path / "a.npy",
    )


@pytest.mark.parametrize("dtype", [">f4", np.complex64, np.longdouble, "M8[s]", bool])
def test_dtypes_that_networks_take(dtype, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((6, 3)).astype(dtype))
    np.save(tmp_path / "y.npy", LABELS)
    paths = {"train_path": tmp_path / "x.npy", "train_labels": tmp_path / "y.npy"}
    if dtype is bool:
        assert load(**paths).train.input_dtype.kind == "b"
    else:
        assert "expected numbers [N, ...]" in message(**paths)


# --- Parquet --------------------------------------------------------------------


def write(path, /, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


LISTS = {
    "list<double>": pa.array(FEATURES.astype(float).tolist()),
    "float16": pa.array(list(FEATURES.astype(np.float16)), pa.list_(pa.float16())),
    "fixed": pa.FixedSizeListArray.from_arrays(pa.array(FEATURES.ravel()), 3),
    "integers": pa.array([[1, 2]] * 6, pa.large_list(pa.int32())),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_column_of_lists(tmp_path, name):
    path = write(
        tmp_path / "x.parquet",
        path=[f"{i}" for i in range(6)],
        number=[1.0] * 6,
        inputs=LISTS[name],
        label=LABELS,
        clean_label=CLEAN,
    )
    found = load(train_path=path)
    expected = np.array(LISTS[name].to_pylist(), np.float32)
    np.testing.assert_allclose(found.train.inputs, expected)
    dtypes = {"float16": np.float16, "integers": np.int32}
    assert found.train.input_dtype == dtypes.get(name, np.float32)
    assert found.columns == ("inputs",)
    np.testing.assert_array_equal(found.train.labels, LABELS)
    np.testing.assert_array_equal(found.train.clean_labels, CLEAN)
    assert found.train.names.tolist() == list("012345")


def test_columns_of_numbers_keep_their_order_and_names(tmp_path):
    a, b, c = FEATURES.T
    train = write(tmp_path / "a.parquet", a=a, b=b, kind=TEXT[LABELS], n=LABELS)
    test = write(tmp_path / "b.parquet", n=LABELS, c=c, b=b, a=a, kind=TEXT[LABELS])
    found = load(train_path=train, test_path=test, label_column="kind")
    assert found.columns == ("a", "b", "n")
    expected = np.stack([a, b, LABELS], axis=1).astype(np.float32)
    for split in (found.train, found.test):
        np.testing.assert_array_equal(split.inputs, expected)
        assert split.input_dtype == np.float32
        np.testing.assert_array_equal(split.labels, LABELS)
    assert found.class_names == tuple(TEXT)
    chosen = load(train_path=train, label_column="kind", input_columns="b,a")
    np.testing.assert_array_equal(chosen.train.inputs, FEATURES[:, [1, 0]])
    np.testing.assert_array_equal(find(test, ("b", "a")).inputs, FEATURES[:, [1, 0]])


def lists(*rows):
    return {"x": pa.array(rows), "label": [0] * len(rows)}


TABLES = {
    "ragged": (
        lists([1.0], [2.0], [3.0, 4.0]),
        "has 1 numbers in row 0 and 2 in row 2",
    ),
    "no list": (
        lists([1.0], [2.0], None),
        "column 'x' has no value in some rows (rows 2",
    ),
    "no number": (lists([1.0], [None], [None]), "no value in some places (rows 1, 2)"),
    "text": ({"x": ["a", "b"], "label": [0, 1]}, "column 'x' holds string: expected"),
    "texts": (lists(["a"], ["b"]), "column 'x' holds list<"),
    "nested": (lists([[1.0]], [[2.0]]), "column 'x' holds list<"),
    "no label": ({"x": [1.0, 2.0]}, "has no column 'label', it has x"),
    "half a label": ({"x": [1.0], "label": [0.5]}, "column 'label' holds double"),
    "infinite": ({"x": [1.0, 1e300], "label": [0, 1]}, "1 of 2 rows hold NaN or infi"),
    "nothing": ({"label": [0, 1]}, "has no column of inputs"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be(tmp_path, name):
    columns, expected = TABLES[name]
    line = message(train_path=write(tmp_path / "x.parquet", **columns))
    assert expected in line
    assert "x.parquet" in line


def test_tables_of_two_widths(tmp_path):
    a = write(tmp_path / "a.parquet", x=FEATURES[:, 0], z=LABELS, label=LABELS)
    b = write(tmp_path / "b.parquet", x=FEATURES[:, 0], label=LABELS)
    assert "has no column 'z'" in message(train_path=a, test_path=b)
    c, d = (
        write(tmp_path / f"{n}.parquet", x=list(FEATURES[:, :n]), label=LABELS)
        for n in (2, 3)
    )
    line = message(train_path=c, test_path=d)
    assert "test inputs are float32 [3] and training inputs float32 [2]" in line


def test_what_is_no_parquet_file(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    assert "expected a Parquet file" in message(train_path=path)


# --- named pipes ----------------------------------------------------------------


@contextlib.contextmanager
def a_pipe(path):
    """A named pipe that ends at once for whoever opens it, so that no test waits."""
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.open("wb").close(), daemon=True)
    writer.start()
    try:
        yield path
    finally:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


@pytest.mark.parametrize("ending", ["npy", "npz", "csv", "parquet"])
def test_only_regular_files_are_opened(features, tmp_path, ending):
    np.save(tmp_path / "train_inputs.npy", FEATURES)
    readers = {
        "npy": [
            lambda path: noise.apply("file", LABELS, num_classes=3, seed=0, path=path),
            lambda path: load(train_path=features, train_labels=path),
        ],
        "npz": [lambda path: load(train_path=path)],
        "csv": [lambda path: load(train_path=features, train_labels=path)],
        "parquet": [lambda path: load(train_path=path)],
    }
    for number, reader in enumerate([*readers[ending], find]):
        with (
            a_pipe(tmp_path / f"pipe{number}.{ending}") as path,
            pytest.raises(InputError, match="is no regular file: expected"),
        ):
            reader(path)
    if ending == "npy":
        with (
            a_pipe(tmp_path / "train_labels.npy"),
            pytest.raises(InputError, match=r"train_labels\.npy is no regular file"),
        ):
            load(train_path=tmp_path / "train_inputs.npy")


# --- values ---------------------------------------------------------------------


def fit(inputs, **options):
    return training.fit(
        lambda rngs: nnx.Linear(3, 3, rngs=rngs),
        (inputs, LABELS),
        loss=losses.make("ce"),
        optimizer=optax.sgd(0.1),
        num_epochs=1,
        batch_size=3,
        **options,
    )


@pytest.mark.parametrize("form", ["array", "float16", "mapped", "rows", "test"])
def test_fit_refuses_values_that_are_not_finite(form, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 24)
    wrong = FEATURES.copy()
    wrong[[1, 4], 2] = np.nan, -np.inf
    np.save(tmp_path / "x.npy", wrong)
    train, options = wrong, {}
    if form == "float16":
        train = wrong.astype(np.float16)
    elif form == "mapped":
        train = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif form == "rows":
        train = Subset(wrong[::-1], np.arange(6)[::-1])
    elif form == "test":
        train, options = FEATURES, {"test": (wrong, LABELS)}
    what = "test" if form == "test" else "training"
    expected = rf"{what} inputs: 2 of 6 rows hold NaN or infinity \(rows 1, 4\)"
    with pytest.raises(InputError, match=expected):
        fit(train, workdir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_large_numbers_whose_sum_is_not_finite_are_fine():
    blocks.check_finite(np.full((4, 2), 3e38, np.float32), "inputs")
    with pytest.raises(InputError, match=r"rows 0, 1, 2, \.\.\."):
        blocks.check_finite(np.full((4, 2), 1e39), "inputs")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16])
def test_statistics_are_those_of_all_rows(dtype, monkeypatch, tmp_path):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 700)
    rows = (RNG.normal(size=(301, 7)) * np.arange(7) + 100).astype(dtype)
    np.save(tmp_path / "x.npy", rows)
    positions = RNG.permutation(301)[:97]
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for inputs, expected in (
        (rows, rows),
        (mapped, rows),
        (Subset(mapped, positions), rows[positions]),
        (rows.reshape(43, 7, 7), rows),
    ):
        mean, std = standardize.feature_statistics(inputs)
        expected = expected.astype(float)
        np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-12)
        of_constant = np.where(np.ptp(expected, axis=0) == 0, 1, expected.std(0))
        np.testing.assert_allclose(std, of_constant, rtol=1e-9)


def test_what_was_read_of_a_mapped_file_is_let_go_and_nothing_is_lost(tmp_path):
    np.save(tmp_path / "x.npy", FEATURES)
    for mode in ("r", "c", "r+"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode != "r":
            mapped[0] = 7
        blocks.release(mapped[1:])
        blocks.release(np.asarray(mapped))
        assert (mapped[0] == (FEATURES[0] if mode == "r" else 7)).all()
