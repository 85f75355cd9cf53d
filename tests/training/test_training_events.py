"""Event files for TensorBoard say what metrics.jsonl says, also after a resume."""

import json
import struct

import numpy as np
import optax
import pytest
from flax import nnx

from dal_jax import losses
from dal_jax.errors import InputError
from dal_jax.training import fit

protocol = pytest.importorskip("tensorboardX.proto.event_pb2")


def train(workdir, num_epochs=4, **options):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 64)
    inputs = (np.eye(3)[labels] + rng.normal(size=(64, 3))).astype(np.float32)
    return fit(
        lambda rngs: nnx.Linear(3, 3, rngs=rngs),
        (inputs[:48], labels[:48]),
        test=(inputs[48:], labels[48:]),
        loss=losses.make("ce"),
        optimizer=optax.sgd(0.1),
        num_epochs=num_epochs,
        batch_size=16,
        checkpoint_every=1,
        workdir=workdir,
        **{"tensorboard": True} | options,
    )


def events_of(workdir):
    """All events in the directory, as a file is laid out: length, sum, data, sum."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            events.append(protocol.Event.FromString(content[place + 12 :][:length]))
            place += 16 + length
    return events


def check_events(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    expected = [
        (entry["step"], name, pytest.approx(value))
        for entry in map(json.loads, lines)
        for name, value in entry.items()
        if name != "step" and value is not None
    ]
    events = events_of(workdir)
    assert [
        (event.step, value.tag, value.simple_value)
        for event in events
        for value in event.summary.value
    ] == expected
    # What a TensorBoard that watches has read of an earlier file is forgotten.
    assert [e.step for e in events if e.session_log.status] == [0]
    assert events[0].file_version == "brain.Event:2"
    times = [event.wall_time for event in events[1:]]
    assert times == sorted(times)


@pytest.mark.parametrize("before", [True, False])
def test_events_are_the_lines_of_metrics_also_after_a_resume(tmp_path, before):
    def leave(entry):
        if entry["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", on_evaluation=leave, tensorboard=before)
    assert (tmp_path / "run" / "tensorboard").exists() == before
    result = train(tmp_path / "run")
    assert [entry["epoch"] for entry in result.metrics] == [1, 2, 3, 4]
    check_events(tmp_path / "run")
    before = [path.name for path in (tmp_path / "run" / "tensorboard").iterdir()]
    train(tmp_path / "run")  # has finished: changes nothing
    assert [p.name for p in (tmp_path / "run" / "tensorboard").iterdir()] == before
    train(tmp_path / "run", num_epochs=1, overwrite=True, tensorboard=False)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_without_the_package_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'dal_jax\[tensorboard\]'"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_of_somebody_else_stays(tmp_path):
    train(tmp_path / "run", num_epochs=1, tensorboard=False)
    mark = json.loads((tmp_path / "run" / ".dal_jax").read_text())
    mark["names"].remove("tensorboard")
    (tmp_path / "run" / ".dal_jax").write_text(json.dumps(mark))
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "tensorboard").mkdir()
    (tmp_path / "run" / "tensorboard" / "mine").write_text("precious")
    with pytest.raises(InputError, match="tensorboard"):
        train(tmp_path / "run", num_epochs=1)
    assert (tmp_path / "run" / "tensorboard" / "mine").read_text() == "precious"
