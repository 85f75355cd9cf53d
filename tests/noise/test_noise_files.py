"""Label files: which are taken, in which order, and which are refused."""

import numpy as np
import pytest

from dal_jax import noise
from dal_jax.errors import InputError

CLEAN = np.random.default_rng(0).integers(0, 10, 2000).astype(np.int32)
GIVEN = noise.symmetric(CLEAN, 10, 0.4, seed=0)


@pytest.fixture
def label_file(tmp_path):
    def write(labels, name="labels.npy"):
        np.save(tmp_path / name, labels)
        return tmp_path / name

    return write


def apply(path, *, index=None, clean=CLEAN, num_classes=10, known=True, **options):
    """Applies a file to the examples at ``index`` of the made source."""
    index = np.arange(len(clean)) if index is None else index
    return noise.apply(
        "file",
        clean[index],
        num_classes=num_classes,
        clean_labels=clean[index] if known else None,
        index=index,
        path=path,
        **({"source_size": len(clean)} | options),
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_labels_follow_the_original_index(label_file, dtype):
    shuffled = np.random.default_rng(1).permutation(2000)
    record = apply(label_file(GIVEN.astype(dtype)), index=shuffled)
    np.testing.assert_array_equal(record.noisy_labels, GIVEN[shuffled])
    assert record.noisy_labels.dtype == np.int32
    assert record.realised_rate == np.mean(GIVEN != CLEAN)
    assert np.isnan(record.nominal_rate)


@pytest.mark.parametrize("known", [True, False])
def test_a_subset_takes_its_part_of_the_whole_sources_labels(label_file, known):
    some = np.random.default_rng(1).permutation(2000)[:300]
    record = apply(label_file(GIVEN), index=some, known=known)
    np.testing.assert_array_equal(record.noisy_labels, GIVEN[some])


def test_labels_of_the_examples_used_alone_are_in_the_order_of_the_record(label_file):
    some = np.random.default_rng(1).permutation(2000)[:300]
    record = apply(label_file(GIVEN[some]), index=some)
    np.testing.assert_array_equal(record.noisy_labels, GIVEN[some])


@pytest.mark.parametrize("ascending", [True, False])
def test_labels_of_the_examples_used_alone_need_proof_of_their_order(
    label_file, ascending
):
    some = np.random.default_rng(1).permutation(2000)[:300]
    some = np.sort(some) if ascending else some
    with pytest.raises(
        InputError, match="300 examples out of 2000, and nothing proves"
    ):
        apply(label_file(GIVEN[some]), index=some, known=False)


def test_the_first_examples_have_only_one_order(label_file):
    record = apply(label_file(GIVEN[:300]), index=np.arange(300), known=False)
    np.testing.assert_array_equal(record.noisy_labels, GIVEN[:300])


@pytest.mark.parametrize("used", [2000, 300])
def test_labels_in_another_order_than_the_images_are_refused(label_file, used):
    """As a file in storage order beside images aligned by their ids would be."""
    shuffled = np.random.default_rng(1).permutation(2000)
    with pytest.raises(InputError, match="as shuffled labels would"):
        apply(label_file(GIVEN[shuffled]), index=shuffled[:used])


def test_a_source_without_an_original_order_takes_no_label_file(label_file):
    with pytest.raises(InputError, match="cannot be aligned"):
        apply(label_file(GIVEN), index_is_original=False)


@pytest.mark.parametrize("known", [True, False])
def test_minus_one_leaves_an_example_out(label_file, known):
    labels = GIVEN.copy()
    labels[::7] = -1
    shuffled = np.random.default_rng(1).permutation(2000)[:900]
    record = apply(label_file(labels), index=shuffled, known=known)
    np.testing.assert_array_equal(record.index, shuffled[shuffled % 7 != 0])
    np.testing.assert_array_equal(record.noisy_labels, GIVEN[record.index])
    if known:
        np.testing.assert_array_equal(record.clean_labels, CLEAN[record.index])
        assert record.realised_rate == np.mean((GIVEN != CLEAN)[record.index])


def test_a_file_may_not_leave_out_everything(label_file):
    labels = np.append(np.full(1999, -1), 9)
    with pytest.raises(InputError, match="leaves out all 300 examples used"):
        apply(label_file(labels), index=np.arange(300), known=False)


BAD_FILES = {
    "too short": (GIVEN[:-1], "holds 1999 labels, and the data set has 2000;"),
    "too long": (np.append(GIVEN, 0), "holds 2001 labels"),
    "floats": (GIVEN.astype(float), "expected integers, got dtype float64"),
    "booleans": (GIVEN > 4, "expected integers, got dtype bool"),
    "strings": (GIVEN.astype(str), "expected integers, got dtype <U"),
    "one hot": (np.eye(10, dtype=int)[GIVEN], r"got shape \(2000, 10\)"),
    "too large": (GIVEN + 1, "values from 1 to 10, and the 10 classes are 0 to 9"),
    "counted from -1": (GIVEN - 1, "values from -1 to 8"),
    "negative": (np.where(GIVEN == 0, -2, GIVEN), "values from -2 to 9"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_does_not_fit_is_refused(label_file, labels, message):
    with pytest.raises(InputError, match=message) as caught:
        apply(label_file(labels))
    assert "labels.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_number_of_examples_used_is_named(label_file):
    with pytest.raises(InputError, match="has 2000, of which 300 are used"):
        apply(label_file(GIVEN[:400]), index=np.arange(300))


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").mkdir, ())

    for name in ("trap.npy", "trap.npz"):
        path = tmp_path / name
        trap = np.array([Trap()] * 2000, dtype=object)
        if name.endswith("npy"):
            np.save(path, trap, allow_pickle=True)
        else:
            np.savez(path, noisy_labels=trap)
        with pytest.raises(InputError, match=name):
            apply(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["labels.npy", "noise.npz"])
@pytest.mark.parametrize("content", [b"", b"0 1 2", b"PK\x03\x04 torn", None])
def test_what_is_no_array_is_refused(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        apply(path)
    assert "\n" not in str(caught.value)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="no regular file"):
        apply(tmp_path)


def test_a_truncated_file_is_refused(label_file):
    path = label_file(GIVEN)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"labels\.npy"):
        apply(path)


def test_from_file_reads_in_the_files_order(label_file):
    path = label_file(GIVEN)
    np.testing.assert_array_equal(noise.from_file(path, 2000, 10), GIVEN)
    with pytest.raises(InputError, match="holds 2000 labels, and there are 1999"):
        noise.from_file(path, 1999, 10)


# A record, noise.npz, brings its own alignment.


def record_of(index, *, known=True, clean=CLEAN):
    return noise.apply(
        "symmetric",
        clean[index],
        num_classes=10,
        rate=0.4,
        seed=3,
        clean_labels=clean[index] if known else None,
        index=index,
    )


@pytest.fixture
def record_file(tmp_path):
    def write(record):
        record.save(tmp_path / "noise.npz")
        return tmp_path / "noise.npz"

    return write


@pytest.mark.parametrize("original", [True, False])
def test_a_record_is_matched_by_its_index(record_file, original):
    order = np.random.default_rng(1).permutation(2000)
    written = record_of(order)
    again = apply(
        record_file(written), index=order[::-1][:500], index_is_original=original
    )
    np.testing.assert_array_equal(again.noisy_labels, written.noisy_labels[::-1][:500])


def test_a_record_without_every_example_is_refused(record_file):
    with pytest.raises(InputError, match="no label for 100 of the 200 examples"):
        apply(record_file(record_of(np.arange(100, 300))), index=np.arange(200))


def test_a_record_of_other_data_is_refused(record_file):
    path = record_file(record_of(np.arange(2000)))
    with pytest.raises(InputError, match="made for other data"):
        apply(path, clean=CLEAN[::-1])


def test_a_record_without_clean_labels_needs_an_original_order(record_file):
    path = record_file(record_of(np.arange(2000), known=False))
    assert apply(path).noisy_labels.shape == (2000,)
    with pytest.raises(InputError, match="cannot be aligned"):
        apply(path, index_is_original=False)


def test_a_record_of_pure_noise_is_taken_for_what_it_is(record_file):
    """Alignment is known from the index here, so nothing is read from the labels."""
    labels = noise.apply("symmetric", CLEAN, num_classes=10, rate=1, clean_labels=CLEAN)
    assert apply(record_file(labels)).realised_rate == labels.realised_rate


def test_a_record_for_more_classes_is_refused(record_file):
    path = record_file(record_of(np.arange(2000)))
    with pytest.raises(InputError, match="values from 0 to 9, and the 5 classes"):
        apply(path, clean=CLEAN % 5, num_classes=5)


def test_another_archive_is_no_record(tmp_path):
    np.savez(tmp_path / "other.npz", labels=GIVEN)
    with pytest.raises(InputError, match=r"not a noise record.*noisy_labels"):
        apply(tmp_path / "other.npz")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_transition_matrix_from_a_file(tmp_path, record_file, suffix):
    record = record_of(np.arange(2000))
    path = record_file(record)
    if suffix == "npy":
        path = tmp_path / "matrix.npy"
        np.save(path, record.transition_matrix)
    drawn = noise.apply(
        "transition_matrix", CLEAN, num_classes=10, path=path, clean_labels=CLEAN
    )
    # The counted matrix of a sample of this size foretells its own rate exactly.
    assert drawn.nominal_rate == pytest.approx(record.realised_rate, abs=1e-12)
    assert drawn.options == {"path": str(path), "seed": 0}
    assert abs(drawn.realised_rate - drawn.nominal_rate) < 0.06


def test_an_archive_without_a_matrix_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", labels=GIVEN)
    with pytest.raises(InputError, match="no array named transition_matrix"):
        noise.apply(
            "transition_matrix", CLEAN, num_classes=10, path=tmp_path / "other.npz"
        )
