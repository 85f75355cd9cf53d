"""The record: what it counts, and that it survives the disk."""

import json

import numpy as np
import pytest

from dal_jax import noise
from dal_jax.errors import InputError
from dal_jax.noise import NoiseRecord

LABELS = np.random.default_rng(0).integers(0, 4, 500)


def make(known=True, **options):
    return noise.apply(
        "asymmetric",
        LABELS,
        num_classes=4,
        rate=0.3,
        seed=11,
        clean_labels=LABELS if known else None,
        index=np.random.default_rng(1).permutation(900)[:500],
        class_map=[1, 0, 3, 3],
        **options,
    )


def assert_equal(left, right):
    for name in ("noisy_labels", "index", "transition_matrix"):
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    if left.clean_labels is None:
        assert right.clean_labels is None
    else:
        np.testing.assert_array_equal(left.clean_labels, right.clean_labels)
    np.testing.assert_equal(left.nominal_rate, right.nominal_rate)
    np.testing.assert_equal(left.realised_rate, right.realised_rate)
    assert (left.kind, left.options) == (right.kind, right.options)


def test_rate_and_matrix_are_counted():
    record = make()
    wrong = record.noisy_labels != LABELS
    assert record.realised_rate == wrong.sum() / 500
    assert record.nominal_rate == 0.3
    for i in range(4):
        for j in range(4):
            share = np.mean(record.noisy_labels[i == LABELS] == j)
            assert record.transition_matrix[i, j] == pytest.approx(share, abs=1e-15)
    assert record.transition_matrix[3].tolist() == [0, 0, 0, 1]
    assert record.options == {"seed": 11, "class_map": [1, 0, 3, 3]}


def test_dtypes():
    record = make()
    assert record.noisy_labels.dtype == record.clean_labels.dtype == np.int32
    assert record.index.dtype == np.int64
    assert record.transition_matrix.dtype == np.float64
    assert type(record.realised_rate) is type(record.nominal_rate) is float


def test_what_is_given_counts_as_noise_where_the_clean_labels_say_so():
    given = np.where(np.arange(500) < 50, (LABELS + 1) % 4, LABELS)
    record = noise.apply("none", given, num_classes=4, clean_labels=LABELS)
    assert record.realised_rate == 0.1
    np.testing.assert_array_equal(record.noisy_labels, given)


def test_without_clean_labels_nothing_is_known():
    record = make(known=False)
    assert record.clean_labels is None
    assert np.isnan(record.realised_rate)
    assert record.transition_matrix.shape == (4, 4)
    assert np.isnan(record.transition_matrix).all()
    assert record.nominal_rate == 0.3


def test_a_class_without_an_example_has_no_row():
    labels = np.array([0, 0, 2])
    record = noise.apply("none", labels, num_classes=3, clean_labels=labels)
    assert np.isnan(record.transition_matrix[1]).all()
    assert record.transition_matrix[2].tolist() == [0, 0, 1]


@pytest.mark.parametrize("known", [True, False])
def test_round_trip(tmp_path, known):
    record = make(known)
    record.save(tmp_path / "noise.npz")
    assert_equal(record, NoiseRecord.load(tmp_path / "noise.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["noise.npz"]


def test_the_file_holds_exactly_the_fields(tmp_path):
    make().save(tmp_path / "noise.npz")
    make(known=False).save(tmp_path / "unknown.npz")
    fields = {
        "noisy_labels",
        "clean_labels",
        "index",
        "nominal_rate",
        "realised_rate",
        "transition_matrix",
        "kind",
        "options",
    }
    with np.load(tmp_path / "noise.npz", allow_pickle=False) as archive:
        assert set(archive.files) == fields
        assert json.loads(str(archive["options"]))["seed"] == 11
        assert str(archive["kind"]) == "asymmetric"
    with np.load(tmp_path / "unknown.npz", allow_pickle=False) as archive:
        assert set(archive.files) == fields - {"clean_labels"}


def test_the_same_record_is_the_same_file(tmp_path):
    make().save(tmp_path / "a.npz")
    make().save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    record = make()
    record.save(tmp_path / "noise.npz")
    before = (tmp_path / "noise.npz").read_bytes()

    def fail(file, **fields):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        record.take([0]).save(tmp_path / "noise.npz")
    assert (tmp_path / "noise.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["noise.npz"]


@pytest.mark.parametrize("known", [True, False])
def test_take_recounts(known):
    record, positions = make(known), np.array([7, 3, 400, 8])
    part = record.take(positions)
    np.testing.assert_array_equal(part.noisy_labels, record.noisy_labels[positions])
    np.testing.assert_array_equal(part.index, record.index[positions])
    assert part.transition_matrix.shape == (4, 4)
    assert (part.kind, part.options) == (record.kind, record.options)
    if known:
        clean = LABELS[positions]
        np.testing.assert_array_equal(part.clean_labels, clean)
        assert part.realised_rate == np.mean(part.noisy_labels != clean)
    else:
        assert part.clean_labels is None
        assert np.isnan(part.realised_rate)


def test_take_of_everything_is_the_record():
    assert_equal(make().take(np.arange(500)), make())


def test_a_vocabulary_has_no_matrix(tmp_path):
    clean = np.array([0, 5, 131_071])
    record = NoiseRecord.count(
        clean[::-1],
        clean,
        np.arange(3),
        num_classes=131_072,
        nominal_rate=0.5,
        kind="given",
        options={},
    )
    assert record.transition_matrix is None
    assert record.realised_rate == 2 / 3
    record.take([0, 2]).save(tmp_path / "noise.npz")
    loaded = NoiseRecord.load(tmp_path / "noise.npz")
    assert (loaded.num_classes, loaded.realised_rate) == (131_072, 1.0)
    assert loaded.noisy_labels.tolist() == [131_071, 0]


def test_one_array_is_no_record(tmp_path):
    np.save(tmp_path / "noise.npy", LABELS)
    (tmp_path / "noise.npy").rename(tmp_path / "noise.npz")
    with pytest.raises(InputError, match="got a single array"):
        NoiseRecord.load(tmp_path / "noise.npz")


def test_options_are_recorded_by_kind():
    common = {"num_classes": 4, "rate": 0.3, "seed": 2}
    images = np.random.default_rng(0).integers(0, 256, (500, 2, 2, 1), np.uint8)
    assert noise.apply("none", LABELS, **common).options == {}
    assert noise.apply("pair_flip", LABELS, **common).options == {"seed": 2}
    assert noise.apply(
        "instance", LABELS, images=images, pixel_scaling="unit", **common
    ).options == {"seed": 2, "pixel_scaling": "unit"}
