"""tensorflow-datasets' ArrayRecord sets, made here without TensorFlow."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import batches
from dal_jax.data.tfds_records import original_index
from dal_jax.errors import InputError

pytest.importorskip("array_record")

IMAGE = {
    "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    "image": {
        "dtype": "uint8",
        "encodingFormat": "png",
        "shape": {"dimensions": ["4", "4", "3"]},
    },
}
LABEL = {
    "pythonClassName": (
        "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    ),
    "classLabel": {"numClasses": "3"},
}
TEXT = {
    "pythonClassName": "tensorflow_datasets.core.features.text_feature.Text",
    "text": {},
}


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def splits(sizes):
    return [
        {
            "name": split,
            "shardLengths": [str(size)],
            "numBytes": "1000",
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, size in sizes.items()
    ]


def make_set(root, name="tiny", version="1.0.0", *, ids=True, labels=None, image=png):
    """Writes train and test of a set in an order that is not the original one."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    directory = root / name / version
    directory.mkdir(parents=True)
    orders = {"train": [3, 0, 4, 1, 2], "test": [1, 0]}
    for split, order in orders.items():
        path = directory / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for number in order:
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature["photo"].bytes_list.value.append(image(10 * number))
            label = number % 3 if labels is None else labels[number]
            feature["species"].int64_list.value.append(label)
            if ids:
                text = ids(split, number) if callable(ids) else f"{split}_{number:05d}"
                feature["id"].bytes_list.value.append(text.encode())
            writer.write(example.SerializeToString())
        writer.close()
    features = {"photo": IMAGE, "species": LABEL} | ({"id": TEXT} if ids else {})
    (directory / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": (
                    "tensorflow_datasets.core.features.features_dict.FeaturesDict"
                ),
                "featuresDict": {"features": features},
            }
        )
    )
    (directory / "species.labels.txt").write_text("ant\nbee\ncat\n")
    info = {
        "name": name,
        "version": version,
        "moduleName": "__main__",
        "fileFormat": "array_record",
        "splits": splits({split: len(order) for split, order in orders.items()}),
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    return directory


def load(root, tfds_name="tiny", **options):
    return data.load(
        DatasetConfig(
            name="tfds",
            tfds_name=tfds_name,
            data_dir=str(root),
            **{"cache_dir": "", **options},
        )
    )


def test_index_is_the_original_one_by_id(tmp_path):
    make_set(tmp_path)
    dataset = load(tmp_path)
    train = dataset.train
    assert train.index.tolist() == [3, 0, 4, 1, 2]
    assert train.index_is_original
    assert train.source_size == 5
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.name == "tfds/tiny"
    # A label file in the original order, taken by index, gives the stored labels.
    np.testing.assert_array_equal(np.arange(5)[train.index] % 3, train.labels)
    np.testing.assert_array_equal(train.inputs[:, 0, 0, 0], 10 * train.index)
    np.testing.assert_array_equal(train.clean_labels, train.labels)
    assert dataset.test.index.tolist() == [1, 0]
    assert train.labels.dtype == np.int32
    assert train.index.dtype == np.int64


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "fashion_mnist", "mnist", "svhn_cropped"]
)
def test_public_sets_as_tensorflow_datasets_declares_them(tmp_path, name):
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    info = tfds.builder(name, data_dir=str(tmp_path)).info
    directory = tmp_path / name / str(info.version)
    directory.mkdir(parents=True)
    info.features.save_config(str(directory))
    declared = json.loads(info.as_json) | {
        "fileFormat": "array_record",
        "splits": splits({"train": 3, "test": 3}),
    }
    (directory / "dataset_info.json").write_text(json.dumps(declared))
    shape, classes = info.features["image"].shape, info.features["label"].num_classes
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    labels = [classes - 1, 0, 7]
    for split in ("train", "test"):
        path = directory / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for number, image in enumerate(images):
            example = tf_example_pb2.Example()
            feature = example.features.feature
            encoded = io.BytesIO()
            Image.fromarray(image.squeeze()).save(encoded, "PNG")
            feature["image"].bytes_list.value.append(encoded.getvalue())
            feature["label"].int64_list.value.append(labels[number])
            if "coarse_label" in info.features:  # comes first by name
                feature["coarse_label"].int64_list.value.append(1)
            if "id" in info.features:
                feature["id"].bytes_list.value.append(f"{split}_{number:05d}".encode())
            writer.write(example.SerializeToString())
        writer.close()
    train = load(tmp_path, name).train
    np.testing.assert_array_equal(train.inputs, images)
    assert train.labels.tolist() == labels
    assert train.index_is_original == ("id" in info.features)
    assert load(tmp_path, name).class_names == tuple(info.features["label"].names)


def test_part_of_a_split_keeps_the_whole_ones_index_and_size(tmp_path):
    make_set(tmp_path)
    train = load(tmp_path, train_split="train[:3]").train
    assert train.index.tolist() == [3, 0, 4]
    assert train.index_is_original
    assert train.source_size == 5


@pytest.mark.parametrize(
    "ids",
    [
        False,
        lambda split, number: f"{split}_{number // 2}",
        lambda split, number: f"{split}_{number + 1}",
        lambda split, number: f"flower_{number}",
        lambda split, number: f"photo{number}.jpg",
    ],
    ids=["none", "repeated", "too large", "another name", "no number"],
)
def test_order_that_is_not_proved_is_flagged(tmp_path, ids):
    make_set(tmp_path, ids=ids)
    train = load(tmp_path).train
    assert not train.index_is_original
    assert train.index.tolist() == [0, 1, 2, 3, 4]
    assert train.labels.tolist() == [0, 0, 1, 1, 2]


def test_ids_of_two_splits_prove_nothing():
    assert original_index([b"train_0", b"test_1"], {"train": 5, "test": 5}) is None


def test_streamed_images_equal_those_in_memory(tmp_path):
    make_set(tmp_path)
    options = {"image_size": 2, "channels": 1}
    memory = load(tmp_path, storage="memory", **options)
    stream = load(tmp_path, storage="stream", **options)
    assert not stream.train.in_memory
    assert stream.train.input_shape == (2, 2, 1)
    images = np.stack([stream.train.inputs[n] for n in range(5)])
    np.testing.assert_array_equal(images, memory.train.inputs)
    order = np.array([[4, 2], [0, 0], [3, 1]])
    decoded = np.stack(list(batches.stream(stream.train, order, workers=1)))
    np.testing.assert_array_equal(decoded, memory.train.inputs[order])


@pytest.mark.slow
def test_second_load_needs_neither_tensorflow_datasets_nor_its_records(tmp_path):
    directory = make_set(tmp_path / "sets")
    code = (
        "import sys; from dal_jax import data;"
        "from dal_jax.config import DatasetConfig;"
        f"d = data.load(DatasetConfig(name='tfds', tfds_name='tiny',"
        f"data_dir={str(directory.parent.parent)!r}, cache_dir={str(tmp_path)!r}));"
        "print(d.train.index.tolist(), d.train.inputs.sum(),"
        "*(m in sys.modules for m in ('tensorflow_datasets', 'tensorflow')))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        ).stdout.split()
        for _ in range(2)
    ]
    assert outputs[0][:-2] == outputs[1][:-2]
    assert outputs[0][-2:] == ["True", "False"]
    assert outputs[1][-2:] == ["False", "False"]


def test_changed_records_are_read_again(tmp_path):
    directory = make_set(tmp_path / "sets")
    before = load(tmp_path / "sets", cache_dir=str(tmp_path / "cache"))
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    make_set(tmp_path / "sets", labels=[2, 2, 2, 2, 2])
    after = load(tmp_path / "sets", cache_dir=str(tmp_path / "cache"))
    assert before.train.labels.tolist() == [0, 0, 1, 1, 2]
    assert after.train.labels.tolist() == [2, 2, 2, 2, 2]


def test_newest_version_unless_one_is_named(tmp_path):
    make_set(tmp_path, version="1.9.0")
    make_set(tmp_path, version="1.10.0", labels=[1, 1, 1, 1, 1])
    assert set(load(tmp_path).train.labels) == {1}
    assert set(load(tmp_path, "tiny:1.9.0").train.labels) == {0, 1, 2}
    with pytest.raises(InputError, match=r"no version 2\.0\.0.*1\.10\.0"):
        load(tmp_path, "tiny:2.0.0")


def test_missing_set_says_at_once_how_to_prepare_it(tmp_path, monkeypatch):
    # Nothing of tensorflow-datasets may run: it would try the network for minutes.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(InputError) as error:
        load(tmp_path, "cifar10")
    assert str(error.value) == (
        f"no data set 'cifar10' in {tmp_path} (it holds mnist): prepare it once, where "
        f"TensorFlow is installed, with: tfds build cifar10 --data_dir={tmp_path} "
        "--file_format=array_record"
    )
    with pytest.raises(InputError, match="nothing is there"):
        load(tmp_path / "nowhere", "cifar10")


def test_default_directory_is_that_of_tensorflow_datasets(tmp_path, monkeypatch):
    make_set(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = DatasetConfig(name="tfds", tfds_name="tiny", cache_dir="")
    assert len(data.load(config).train) == 5


def test_name_is_required(tmp_path):
    with pytest.raises(InputError, match=r"needs dataset\.tfds_name"):
        load(tmp_path, None)


def test_set_with_configs_lists_them(tmp_path):
    make_set(tmp_path, name="tiny")
    (tmp_path / "many").mkdir()
    (tmp_path / "tiny").rename(tmp_path / "many" / "plain")
    with pytest.raises(InputError, match=r"has configs.*many/plain"):
        load(tmp_path, "many")
    assert len(load(tmp_path, "many/plain").train) == 5


def test_other_file_format_says_how_to_convert(tmp_path):
    info = make_set(tmp_path) / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=r"stored as tfrecord.*tfds convert_format"):
        load(tmp_path)


def test_unknown_split_lists_the_known(tmp_path):
    make_set(tmp_path)
    with pytest.raises(InputError, match=r"no split 'validation'.*one of train, test"):
        load(tmp_path, test_split="validation")


def test_missing_shard_is_named(tmp_path):
    directory = make_set(tmp_path)
    (directory / "tiny-test.array_record-00000-of-00001").unlink()
    with pytest.raises(InputError, match=r"incomplete or damaged.*tiny-test"):
        load(tmp_path)


def test_unlabelled_split_is_refused(tmp_path):
    make_set(tmp_path, labels=[0, 1, -1, 0, 0])
    with pytest.raises(InputError, match="has label -1 at 4, expected 0 to 2"):
        load(tmp_path)


def test_unreadable_record_is_named(tmp_path):
    make_set(tmp_path, image=lambda value: b"broken" if value == 40 else png(value))
    with pytest.raises(InputError, match=r"1 of 5 images in train .*train\[2\]"):
        load(tmp_path)
    dataset = load(tmp_path, on_unreadable="skip")
    assert dataset.train.index.tolist() == [3, 0, 1, 2]
    assert dataset.skipped == (f"{tmp_path}/tiny/1.0.0 train[2]",)


def test_set_without_images_is_refused(tmp_path):
    directory = make_set(tmp_path)
    features = json.loads((directory / "features.json").read_text())
    features["featuresDict"]["features"]["photo"] = TEXT
    (directory / "features.json").write_text(json.dumps(features))
    with pytest.raises(InputError, match="has the features id, photo, species: exp"):
        load(tmp_path)
