"""Several processes at a time, on this machine and by Dask, one of them killed."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from dal_jax.comparing.engine_local import run_local, shares
from dal_jax.comparing.job import Job, train
from dal_jax.comparing.plan import make_plan, parse_noise
from dal_jax.comparing.study import Study
from dal_jax.config import DatasetConfig, ModelConfig, TrainConfig
from dal_jax.errors import InputError
from dal_jax.training import Interrupted

LEAST = 3  # epochs after which a process is killed or asked to stop


def jobs_of(path, checkpoint_every=2):
    """Two runs of so many epochs that there is time to kill what trains them."""
    base = TrainConfig(
        dataset=DatasetConfig(train_size=128, test_size=50),
        model=ModelConfig(name="mlp", hidden=(8,)),
        num_epochs=24,
        train_eval_size=0,
        checkpoint_every=checkpoint_every,
    )
    runs = make_plan(base, ["ce", "dal"], [parse_noise("symmetric:0.4")], [0])
    study = Study(path)
    study.begin(base)
    return study, runs, [Job.of(study, run) for run in runs]


def untimed(study, runs):
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in study.rows(runs)
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared") / "c"
    study, runs, jobs = jobs_of(path, checkpoint_every=24)
    ended = []
    run_local(jobs, 1, lambda job, outcome: ended.append(outcome), lambda: None)
    assert ended == ["finished", "finished"]
    return untimed(study, runs)


def wait_for_epochs(study: Study, job: Job):
    """Waits until a run has had a few epochs from now on."""
    metrics = study.workdir(job.name) / "metrics.jsonl"

    def epochs():
        return metrics.read_text().count("\n") if metrics.exists() else 0

    before = epochs()
    while epochs() < before + LEAST:
        time.sleep(0.02)


def when_begun(study: Study, job: Job, act: Callable[[], object]):
    """Acts in a thread, once a run has had a few epochs."""
    acted: list[object] = []

    def wait():
        wait_for_epochs(study, job)
        acted.append(act())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, acted


def test_a_killed_process_costs_its_run_alone_and_a_signal_saves_what_is_in_progress(
    undisturbed, tmp_path
):
    study, runs, jobs = jobs_of(tmp_path / "c")
    ended = []

    def disturb():
        # The first process that was started has the first job.
        first = min(multiprocessing.active_children(), key=lambda child: child.pid)
        os.kill(first.pid, signal.SIGKILL)
        # Another one goes on with it, which takes longer than the other run.
        wait_for_epochs(study, jobs[0])
        while not ended:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        return first

    thread, killed = when_begun(study, jobs[0], disturb)
    with pytest.raises(Interrupted, match="the same command goes on") as raised:
        run_local(jobs, 2, lambda *how: ended.append(how), lambda: None)
    thread.join()
    assert killed[0].exitcode == -signal.SIGKILL
    assert raised.value.signal_number == signal.SIGTERM
    assert multiprocessing.active_children() == []
    assert ended == [(jobs[1], "finished")]
    assert not study.finished(jobs[0].name)
    saved = list((study.workdir(jobs[0].name) / "checkpoints").iterdir())
    assert saved
    run_local(jobs, 1, lambda *how: ended.append(how), lambda: None)
    assert ended[1:] == [(job, "finished") for job in jobs]
    assert untimed(study, runs) == undisturbed


def test_a_cluster_whose_worker_is_killed_gives_the_same_rows(undisturbed, tmp_path):
    distributed = pytest.importorskip("distributed")
    from dal_jax.comparing.engine_dask import run_dask

    study, runs, jobs = jobs_of(tmp_path / "c")
    ended = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cluster that is none of this package's
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
        )
    with cluster:
        pids = [worker.pid for worker in cluster.workers.values()]
        thread, killed = when_begun(
            study, jobs[0], lambda: os.kill(pids[0], signal.SIGKILL)
        )
        run_dask(
            jobs,
            cluster.scheduler_address,
            lambda job, outcome: ended.append(outcome),
            lambda line: None,
        )
        thread.join()
    assert killed == [None]
    assert ended == ["finished", "finished"]
    assert untimed(study, runs) == undisturbed


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dal_jax.comparing.job._PATIENCE", 0.0)
    study, _, jobs = jobs_of(tmp_path / "c")
    with study.claimed(jobs[0].name, 0.0):
        assert train(jobs[0]) == "busy"
    assert not study.workdir(jobs[0].name).exists()


def test_processes_that_keep_dying_of_a_run_make_it_a_failure(tmp_path):
    study, runs, jobs = jobs_of(tmp_path / "c")
    assert jobs[0].give_up("exit status -9") == "failed"
    row = study.row(runs[0])
    assert row is not None
    assert row["error"] == "3 processes that trained it died (exit status -9)"


def test_a_process_that_does_not_see_the_directory_says_so(tmp_path):
    _, _, jobs = jobs_of(tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="use a file system that all share"):
        train(jobs[0])


def test_cores_are_shared_without_overlap():
    assert shares([0, 1, 2, 3], 4) == [[0], [1], [2], [3]]
    of_three = shares(list(range(7)), 3)
    assert [core for cores in of_three for core in cores] == list(range(7))
    assert shares([5], 2) == [[5], [5]]
