"""A checkpoint is never lost: damaged, unreadable and another's are three things."""

import errno
import gc
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dal_jax.errors import InputError
from dal_jax.training import manifest
from dal_jax.training.checkpoint import Checkpoints
from dal_jax.training.storing import StorageError
from dal_jax.training.workdir import Workdir

# What Orbax's readers that fail leave to the garbage collector.
leaves_garbage = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
IDENTITY = {"optimizer": {"learning_rate": 0.1}, "seed": 0}


def state(value, shape=(4, 3)):
    return {
        "params": {"w": jnp.full(shape, value), "b": jnp.ones(3, jnp.bfloat16)},
        "step": jnp.int32(value),
        "memory": (),
    }


def abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def restore(files, tree=None, said=None):
    checkpoints = Checkpoints(files, keep=2)
    say = pytest.fail if said is None else said.append
    try:
        return checkpoints.restore(abstract(state(0.0) if tree is None else tree), say)
    finally:
        checkpoints.close()


def save(files, *steps, **options):
    checkpoints = Checkpoints(files, keep=2, **options)
    try:
        for step in steps:
            checkpoints.save(step, state(float(step)))
    finally:
        checkpoints.close()


def begin(path, identity=IDENTITY, defaults=IDENTITY):
    files = Workdir(path)
    path.mkdir(exist_ok=True)
    files.begin(identity, defaults, None, overwrite=False)
    return files


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    files = begin(tmp_path_factory.mktemp("checkpoints") / "run")
    save(files, 1, 2)
    return files.path


@pytest.fixture
def files(two_saved, tmp_path):
    """A run with checkpoints at steps 1 and 2."""
    shutil.copytree(two_saved, tmp_path / "run")
    return Workdir(tmp_path / "run")


def largest(checkpoint):
    found = [path for path in checkpoint.glob("arrays/**/d/*") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_size)


def truncate(checkpoint):
    path = largest(checkpoint)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(checkpoint):
    content = bytearray(largest(checkpoint).read_bytes())
    content[len(content) // 2] ^= 1
    largest(checkpoint).write_bytes(content)


def empty_file(checkpoint):
    largest(checkpoint).write_bytes(b"")


def lose_file(checkpoint):
    largest(checkpoint).unlink()


def lose_arrays(checkpoint):
    shutil.rmtree(checkpoint / "arrays")


def change_digest(checkpoint):
    (checkpoint / "digest" / "metadata").write_text("{}")


def tear_manifest(checkpoint):
    (checkpoint / "manifest.json").write_text('{"files": {"arr')


def test_what_was_saved_comes_back(files):
    step, arrays = restore(files)
    assert step == 2
    expected = state(2.0)
    assert jax.tree.structure(arrays) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    assert arrays["params"]["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        flip_bit,
        empty_file,
        lose_file,
        lose_arrays,
        change_digest,
        tear_manifest,
    ],
)
def test_a_damaged_one_is_moved_and_the_one_before_is_taken(harm, files):
    harm(files.checkpoints / "2")
    before = contents(files.checkpoints / "2")
    said = []
    step, arrays = restore(files, said=said)
    assert step == 1
    assert arrays["step"] == 1
    assert len(said) == 1
    assert said[0].startswith("checkpoint 2 is damaged (")
    assert contents(files.path / "damaged_checkpoints" / "2_0") == before
    assert not (files.checkpoints / "2").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("out of memory"), "out of memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ValueError("unknown format 7\nand a page more"), "unknown format 7"),
        (RuntimeError("os_error_code='13' of many words"), "Permission denied"),
    ],
)
def test_what_cannot_be_read_now_stops_and_stays(error, reason, files, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    before = contents(files.path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", fail)
        with pytest.raises(StorageError) as caught:
            restore(files)
    line = str(caught.value)
    assert line.startswith(f"checkpoint 2 in {files.checkpoints} cannot be read now (")
    assert reason in line
    assert "\n" not in line
    assert "the same command goes on" in line
    assert contents(files.path) == before
    assert restore(files)[0] == 2


def test_files_that_cannot_be_read_now_are_not_damaged(files, monkeypatch):
    # More than any memory holds.
    monkeypatch.setattr(manifest, "_BLOCK", 2**62)
    before = contents(files.path)
    with pytest.raises(StorageError, match=r"checkpoint 2 in .* cannot be read now"):
        restore(files)
    assert contents(files.path) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tree: tree["params"].update(w=jnp.zeros((4, 5))),
            r"params.w was float32\[4, 3\], now float32\[4, 5\]",
        ),
        (
            lambda tree: tree["params"].update(b=jnp.ones(3)),
            r"params.b was bfloat16\[3\], now float32\[3\]",
        ),
        (
            lambda tree: tree["params"].update(more=jnp.ones(())),
            r"params.more was missing, now float32\[\]",
        ),
        (lambda tree: tree.pop("step"), r"step was int32\[\], now missing"),
    ],
)
def test_one_that_does_not_fit_is_refused_by_name(change, words, files):
    tree = state(0.0)
    change(tree)
    before = contents(files.path)
    with pytest.raises(InputError, match=words):
        restore(files, tree)
    assert contents(files.path) == before


def test_a_state_that_gains_a_field_without_arrays_still_fits(files):
    tree = state(0.0) | {"average": (), "memory": {}}
    step, arrays = restore(files, tree)
    assert step == 2
    assert arrays["average"] == ()
    np.testing.assert_array_equal(arrays["params"]["w"], np.full((4, 3), 2.0))


def test_arrays_that_came_later_begin_as_they_are_given(files):
    later = {"more": {"a": jnp.arange(3), "b": jnp.ones(2)}}
    tree = state(0.0) | later
    checkpoints = Checkpoints(files, keep=2)
    step, arrays = checkpoints.restore(abstract(tree), pytest.fail, later)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, arrays, state(2.0) | later)
    grown = jax.tree.map(lambda x: x + 1, tree)
    checkpoints.save(3, grown)
    checkpoints.close()
    checkpoints = Checkpoints(files, keep=2)
    step, arrays = checkpoints.restore(abstract(tree), pytest.fail, later)
    checkpoints.close()
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, arrays, grown)


def test_one_of_another_configuration_is_refused_by_name(files, tmp_path):
    other = begin(tmp_path / "other", IDENTITY | {"seed": 1})
    save(other, 3)
    shutil.copytree(other.checkpoints / "3", files.checkpoints / "3")
    before = contents(files.path)
    with pytest.raises(InputError, match=r"checkpoint 3 in .* another configuration"):
        restore(files)
    assert contents(files.path) == before


@pytest.mark.parametrize("value", [None, 0.5])
def test_a_field_that_came_later_changes_nothing(value, two_saved, tmp_path):
    shutil.copytree(two_saved, tmp_path / "run")
    new = {"optimizer": {"learning_rate": 0.1, "new": value}, "seed": 0, "more": value}
    files = begin(tmp_path / "run", identity=new, defaults=new)
    assert restore(files)[0] == 2
    save(files, 3)
    assert restore(files)[0] == 3


def test_a_run_that_can_restore_none_stops_each_time(files):
    (files.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    for step in ("1", "2"):
        truncate(files.checkpoints / step)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"no checkpoint in .* can be restored"):
            restore(files, said=[])
    assert (files.path / "metrics.jsonl").read_text().count("\n") == 2
    assert len(list((files.path / "damaged_checkpoints").iterdir())) == 2


@pytest.mark.parametrize("rest", ["", "1"])
def test_a_run_whose_checkpoints_were_removed_stops(rest, files):
    shutil.rmtree(files.checkpoints)
    if rest:
        files.checkpoints.mkdir()
    with pytest.raises(StorageError, match=r"no checkpoint in .* can be restored"):
        restore(files)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    files = begin(tmp_path / "run")
    assert restore(files) is None
    (files.path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert restore(files) is None


# A run of version 0.1.0 has neither the mark nor the lists.
@pytest.fixture
def of_0_1_0(files):
    (files.path / ".dal_jax").unlink()
    for listed in files.checkpoints.glob("*/manifest.json"):
        listed.unlink()
    return files


def test_one_without_a_list_is_restored(of_0_1_0):
    assert restore(of_0_1_0)[0] == 2


@leaves_garbage
def test_one_without_a_list_that_cannot_be_read_stays(of_0_1_0):
    truncate(of_0_1_0.checkpoints / "2")
    before = contents(of_0_1_0.checkpoints)
    with pytest.raises(StorageError, match=r"checkpoint 2 in .* cannot be read now"):
        restore(of_0_1_0)
    assert contents(of_0_1_0.checkpoints) == before
    shutil.move(of_0_1_0.checkpoints / "2", of_0_1_0.path.parent / "elsewhere")
    assert restore(of_0_1_0)[0] == 1
    gc.collect()


def test_one_without_a_list_whose_arrays_have_another_digest_is_damaged(of_0_1_0):
    digest = of_0_1_0.checkpoints / "2" / "digest" / "metadata"
    config = f'{{"arrays": 1, "config": {of_0_1_0.digest}}}'
    digest.write_text(config)
    said = []
    assert restore(of_0_1_0, said=said)[0] == 1
    assert "its arrays are not those that were saved" in said[0]


class Killed(BaseException):
    """Stands for the end of the process."""


def whole(files, step):
    """Whether some copy of a step is whole at this moment."""
    places = (files.checkpoints, files.path / "replaced_checkpoints")
    copies = [place / str(step) for place in places]
    return any(
        manifest.exists(copy) and manifest.damage(copy) is None for copy in copies
    )


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_step_saved_again_always_has_a_whole_copy(moment, files, monkeypatch):
    """Orbax is stopped where it begins to write, and where it has written all."""
    seen = []

    def killed(*args, **kwargs):
        seen.append(whole(files, 2))
        raise Killed

    checkpoints = Checkpoints(files, keep=1)
    checkpoints.restore(abstract(state(0.0)), pytest.fail)
    with monkeypatch.context() as patch:
        if moment == "begin":
            patch.setattr(ocp.CheckpointManager, "save", killed)
            with pytest.raises(Killed):
                checkpoints.save(2, state(2.0))
        else:
            patch.setattr(manifest, "write", lambda path: killed())
            checkpoints.save(2, state(2.0))
            with pytest.raises(Killed):
                checkpoints.wait()
    assert seen == [True]
    # As after a kill: nothing is closed, and another process comes.
    assert restore(files)[0] == 2
    assert not (files.path / "replaced_checkpoints").exists()
    save(files, 2)
    assert restore(files)[0] == 2
    assert not (files.path / "replaced_checkpoints").exists()


def test_a_step_whose_second_save_fails_is_taken_back(files, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(files.checkpoints / "2")
    checkpoints = Checkpoints(files, keep=2)
    checkpoints.restore(abstract(state(0.0)), pytest.fail)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", fail)
        with pytest.raises(StorageError, match="No space left on device"):
            checkpoints.save(2, state(2.0))
    checkpoints.close()
    assert contents(files.checkpoints / "2") == before


def test_a_first_save_that_fails_leaves_a_run_that_begins_again(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = begin(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", fail)
        with pytest.raises(StorageError):
            save(files, 1)
    assert restore(files) is None


# In a process of its own: a writer that failed leaves tasks behind, which are dropped
# later, with a warning, during whatever test happens to run then.
_SAVE_MORE = f"""
import sys
from pathlib import Path
import numpy as np
from dal_jax.training.checkpoint import Checkpoints
from dal_jax.training.storing import StorageError
from dal_jax.training.workdir import Workdir

files = Workdir(Path(sys.argv[1]))
files.begin({IDENTITY}, {IDENTITY}, None, overwrite=False)
checkpoints = Checkpoints(files, keep=2)
noise = np.random.default_rng(0).normal(size=(100, 100))
checkpoints.save(3, {{"small": np.ones((4, 3)), "step": np.int32(3), "large": noise}})
try:
    checkpoints.close()
except StorageError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_costs_only_what_was_being_saved(
    files, start_script, tmp_path
):
    before = {step: contents(files.checkpoints / step) for step in ("1", "2")}
    script = tmp_path / "save_more.py"
    script.write_text(_SAVE_MORE)
    # No file may grow beyond this, which stands for the disk's end.
    process = start_script(script, files.path, file_limit=10_000)
    assert process.wait() == 0, process.err
    said = f"cannot write to {files.checkpoints} (File too large)"
    assert process.out.startswith(said)
    assert process.out.count("\n") == 1
    after = {step: contents(files.checkpoints / step) for step in ("1", "2")}
    assert after == before
    assert restore(files)[0] == 2
    save(files, 3)
    assert restore(files)[0] == 3


def test_the_best_is_still_known_after_a_restart(tmp_path):
    files = begin(tmp_path / "run")
    for accuracies in ({1: 0.9, 2: 0.1}, {3: 0.2, 4: 0.3}):
        checkpoints = Checkpoints(files, keep=1, best="accuracy")
        checkpoints.restore(abstract(state(0.0)), pytest.fail)
        for step, accuracy in accuracies.items():
            checkpoints.save(step, state(float(step)), {"accuracy": accuracy})
        checkpoints.close()
    assert {path.name for path in files.checkpoints.iterdir()} == {"1", "4"}


def test_random_keys_come_back(tmp_path):
    files = begin(tmp_path / "run")
    tree = {"key": jax.random.key(7)}
    checkpoints = Checkpoints(files, keep=1)
    checkpoints.save(1, tree)
    checkpoints.close()
    _, arrays = restore(files, tree)
    assert arrays["key"] == tree["key"]


def test_the_process_is_left_alone(files):
    def owned():
        hooks = (threading.excepthook, sys.excepthook, sys.unraisablehook)
        return (*hooks, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    before = owned()
    checkpoints = Checkpoints(files, keep=2)
    checkpoints.restore(abstract(state(0.0)), pytest.fail)
    checkpoints.save(3, state(3.0))
    assert owned() == before
    checkpoints.close()
    assert owned() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_saving_again_and_again_takes_no_more_memory(files):
    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("RssAnon"))

    noise = np.random.default_rng(0).standard_normal(2**25, np.float32)
    arrays = {"noise": jnp.asarray(noise)}
    np.asarray(arrays["noise"])  # what the array keeps of itself on the host
    checkpoints = Checkpoints(files, keep=1)
    before, after = resident(), []
    for step in range(3, 9):
        checkpoints.save(step, arrays)
        checkpoints.wait()
        after.append(resident())
    checkpoints.close()
    assert max(after) - before < noise.nbytes / 1024
