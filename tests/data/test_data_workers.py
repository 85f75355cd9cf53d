"""Workers share memory safely, end quietly and leave nothing behind."""

import ast
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dal_jax.data import workers
from dal_jax.data.decode import decode_batch

pytestmark = pytest.mark.skipif(not workers.supported(), reason="needs POSIX")


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, [4, 5, 3], np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def one_worker():
    one = workers.Workers(1)
    yield one
    one.close()


def request(path, value):
    """What decodes to a batch of the image, and a picture of one value."""
    flat = np.full([4, 5, 3], value, np.uint8)
    return (2, 4, 5, 3), [path, flat], 3, None


def test_pixels_are_those_decoded_here(one_worker, path):
    encoded = [path, Path(path).read_bytes(), np.zeros([9, 9, 1], np.uint8)]
    for options in ((3, 4), (1, 4)):
        shape = (3, 4, 4, options[0])
        there, _ = one_worker.decode_batch(shape, encoded, *options)
        here, _ = decode_batch(shape, encoded, *options)
        np.testing.assert_array_equal(there, here)


def test_failures_are_those_found_here(one_worker, path):
    encoded = [b"no image", path, np.zeros([9, 9, 3], np.uint8)]
    _, there = one_worker.decode_batch((3, 4, 5, 3), encoded, 3, None)
    _, here = decode_batch((3, 4, 5, 3), encoded, 3, None)
    assert [(row, repr(error)) for row, error in there] == [
        (0, "UnreadableImage('not an image in a known format')"),
        (2, "OtherSize('9 x 9')"),
    ]
    assert repr(there) == repr(here)


def test_memory_is_used_again_only_when_no_view_is_left(one_worker, path):
    first, _ = one_worker.decode_batch(*request(path, 1))
    view = first.reshape(-1)[-10:][::2]
    address = first.ctypes.data
    del first
    second, _ = one_worker.decode_batch(*request(path, 2))
    assert second.ctypes.data != address
    assert view.tolist() == [1] * 5
    del view
    gc.collect()
    third, _ = one_worker.decode_batch(*request(path, 3))
    assert third.ctypes.data == address
    assert second[1].max() == 2


def test_any_number_of_batches_can_be_kept(one_worker, path):
    kept = [one_worker.decode_batch(*request(path, value))[0] for value in range(60)]
    assert [batch[1].min() for batch in kept] == list(range(60))
    shared = [batch for batch in kept if batch.base is not None]
    assert 0 < len(shared) < 30  # the others are copies


def test_worker_that_dies_is_said_and_replaced(one_worker, path):
    worker = one_worker._idle.get()
    worker.process.kill()
    one_worker._idle.put(worker)
    with pytest.raises(RuntimeError, match="a decoding process died with status -9"):
        one_worker.decode_batch(*request(path, 1))
    batch, _ = one_worker.decode_batch(*request(path, 1))
    assert batch[1].min() == 1


def test_workers_that_have_ended_say_so(path):
    ended = workers.Workers(2)
    ended.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the workers have ended"):
            ended.decode_batch(*request(path, 1))
        ended.close()


def test_workers_import_next_to_nothing():
    trees = [
        ast.parse((Path(workers.__file__).parent / name).read_text())
        for name in ("workers.py", "decode.py")
    ]
    modules = {
        node.module
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert {name for name in modules if name.startswith("dal_jax")} == {
        "dal_jax.data.decode"
    }


# No __main__ guard, as in a notebook or a script of a few lines.
PROGRAM = """
import os, signal, subprocess, sys
import numpy as np
from dal_jax import data
from dal_jax.config import DatasetConfig
from dal_jax.data import batches, workers

pids, popen = [], subprocess.Popen
def start(*args, **options):
    process = popen(*args, **options)
    pids.append(process.pid)
    return process
subprocess.Popen = start
config = DatasetConfig(
    name="folder", train_path=sys.argv[1], storage="stream", cache_dir=""
)
split = data.load(config).train
stream = batches.stream(split, np.zeros([400, 3], int), workers=2)
first = next(stream)
print(*pids, flush=True)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("assert sum(1 for _ in stream) == 399", 0),
        ("for _ in range(200): last = next(stream)", 0),
        ("workers.close()", 0),
        ("os.killpg(0, signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_streams_end_quietly_and_leave_nothing(tmp_path, path, end, status):
    (tmp_path / "root" / "class").mkdir(parents=True)
    Path(path).rename(tmp_path / "root" / "class" / "0.png")
    before = shared_memory_files()
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + end, str(tmp_path / "root")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        timeout=100,
    )
    assert (ended.stderr, ended.returncode) == ("", status)
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    # Other programs on this machine may use such files for a moment.
    wait_until(lambda: not any(map(is_running, pids)))
    wait_until(lambda: shared_memory_files() <= before)


def shared_memory_files():
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


def is_running(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
