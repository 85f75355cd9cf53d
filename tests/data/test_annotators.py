"""Labels of several annotators, by hand and from files."""

import numpy as np
import pytest

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import annotators
from dal_jax.errors import InputError

# Three annotators of four examples and three classes.
GIVEN = np.array([[0, 0, 2], [1, -1, -1], [2, 1, 0], [-1, 1, 2]])


def test_majority_and_ties():
    assert annotators.majority(GIVEN, 3).tolist() == [0, 1, 2, 1]


def test_shares():
    third = 1 / 3
    expected = [[2 / 3, 0, third], [0, 1, 0], [third] * 3, [0, 0.5, 0.5]]
    np.testing.assert_allclose(annotators.shares(GIVEN, 3), expected, rtol=1e-6)


def test_agreement_by_hand():
    # Ordered pairs: 6 of which 2 agree, none, 6 of which none, 2 of which none.
    pairs, kappa = annotators.agreement(GIVEN, 3)
    assert pairs == pytest.approx(2 / 14)
    chance = (3 / 9) ** 2 * 3  # each class was given three times
    assert kappa == pytest.approx((2 / 14 - chance) / (1 - chance))


def test_kappa_of_a_published_example():
    """Fourteen raters, ten subjects, five categories: 0.210."""
    table = """0 0 0 0 14; 0 2 6 4 2; 0 0 3 5 6; 0 3 9 2 0; 2 2 8 1 1
               7 7 0 0 0; 3 2 6 3 0; 2 5 3 2 2; 6 5 2 1 0; 0 2 2 3 7"""
    rows = table.replace("\n", ";").split(";")
    given = [np.repeat(np.arange(5), list(map(int, row.split()))) for row in rows]
    assert annotators.agreement(np.array(given), 5).kappa == pytest.approx(
        0.210, abs=5e-4
    )


def test_one_annotator_agrees_with_nobody():
    assert np.isnan(annotators.agreement(GIVEN[:, :1], 3)).all()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for i in range(4):
        Image.fromarray(np.full((4, 4), 60 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def load_list(images, rows, **fields):
    lines = ["path,ann,ben,cleo,label", *(f"{i}.png,{r}" for i, r in enumerate(rows))]
    (images / "train.csv").write_text("\n".join(lines) + "\n")
    return data.load(
        DatasetConfig(
            "list",
            train_path=str(images / "train.csv"),
            cache_dir="",
            label_columns=fields.pop("label_columns", "ann,ben,cleo"),
            **fields,
        )
    )


ROWS = ["dog,dog,ant,x", "cat,,,x", "ant,cat,dog,x", ",cat,ant,x"]


def test_a_list_with_a_column_an_annotator(images):
    dataset = load_list(images, ROWS)
    assert dataset.class_names == ("ant", "cat", "dog")
    assert dataset.train.labels.tolist() == [2, 1, 0, 1]
    assert dataset.train.label_distributions is None
    (line,) = dataset.notes
    assert line == (
        "3 annotators, 2.25 labels an example on average: 14.3% of pairs agree, "
        "Fleiss' kappa -0.286"
    )
    shares = load_list(images, ROWS, annotators="distribution").train
    np.testing.assert_allclose(shares.label_distributions[3], [0.5, 0.5, 0])
    assert shares.labels.tolist() == [2, 1, 0, 1]
    np.testing.assert_allclose(shares.take([3]).label_distributions, [[0.5, 0.5, 0]])


def test_shares_of_the_first_classes(images):
    dataset = load_list(images, ROWS, annotators="distribution", max_classes=2)
    assert dataset.train.index.tolist() == [1, 2, 3]
    expected = [[0, 1], [0.5, 0.5], [0.5, 0.5]]
    np.testing.assert_allclose(dataset.train.label_distributions, expected)


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (["a,a,b,x", ",,,x", "a,b,b,x", ",,,x"], {}, "2 examples .* rows 1, 3: exp"),
        ([",,,x"], {}, "left all rows without a label"),
        (ROWS, {"annotators": "distributions"}, "did you mean 'distribution'"),
        (ROWS, {"label_columns": "ann"}, "expected two columns or more"),
        (ROWS, {"label_columns": "ann,ben,ann"}, "each once"),
        (ROWS, {"label_columns": "ann,bert"}, "no column 'bert'"),
        (ROWS, {"annotators_path": "x.npy"}, "in one place"),
    ],
)
def test_bad_lists(images, rows, fields, message):
    with pytest.raises(InputError, match=message) as error:
        load_list(images, rows, **fields)
    assert "\n" not in str(error.value)


def write(path, given):
    np.save(path, given)
    return str(path)


def test_an_array_is_in_the_original_order(tmp_path):
    plain = data.load(DatasetConfig(train_size=50)).train
    given = np.full((plain.source_size, 2), -1)
    given[plain.index, 0] = plain.labels
    rest = np.setdiff1d(np.arange(plain.source_size), plain.index)
    given[rest, 1] = 3
    path = write(tmp_path / "given.npy", given)
    dataset = data.load(DatasetConfig(train_size=50, annotators_path=path))
    np.testing.assert_array_equal(dataset.train.labels, plain.labels)
    assert "how far they agree is not known" in dataset.notes[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1797, 2)), "expected an .npy of integers"),
        (np.zeros(1797, int), "expected an .npy of integers"),
        (np.zeros((1796, 2), int), "1796 rows and the data set 1797 examples"),
        (np.full((1797, 2), 10), "the label 10: expected 0 to 9"),
        (np.full((1797, 2), -1), "left 1297 examples without a label, rows 0, 1"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, given, message):
    path = write(tmp_path / "given.npy", given)
    with pytest.raises(InputError, match=message):
        data.load(DatasetConfig(annotators_path=path))
    if given.ndim == 2 and given.dtype.kind == "i" and given.max() == 10:
        with pytest.raises(InputError, match="without labels of several annotators"):
            data.load(DatasetConfig(annotators="distribution"))
        with pytest.raises(InputError, match=r"for dataset\.name=list"):
            data.load(DatasetConfig(label_columns="a,b"))
