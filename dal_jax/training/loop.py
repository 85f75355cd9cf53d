"""The loop: prepare, go on where a run stopped, train, evaluate, record."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dal_jax.config import TrainConfig
from dal_jax.training import experiment as experiments
from dal_jax.training import summary as summaries
from dal_jax.training.checkpoint import Checkpoints
from dal_jax.training.experiment import Carry, Experiment
from dal_jax.training.prepare import Prepared, prepare
from dal_jax.training.processes import (
    agree,
    any_process,
    is_main_process,
    refuse_together,
)
from dal_jax.training.state import TrainMetrics
from dal_jax.training.workdir import Workdir, config_digest


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not finite: one line with where and what to do."""


class Interrupted(RuntimeError):
    """A run that was asked to stop, saved itself and left."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def train_and_evaluate(
    config: TrainConfig,
    workdir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    profile: bool = False,
) -> dict[str, Any]:
    """Trains as configured, or goes on where the same run stopped.

    Args:
      config: what to train, on what, how.
      workdir: where ``config.json``, ``noise.npz``, ``metrics.jsonl``,
        ``checkpoints/`` and at the end ``summary.json`` are written.
      overwrite: remove what an earlier run left there, and start anew.
      say: told in single lines what a person would want to know.
      progress: show a progress bar on standard error.
      profile: write a JAX profile of the second epoch to ``workdir/profile``.

    Returns:
      The summary, as in ``summary.json``; ``{}`` where ``num_epochs`` is 0.

    Raises:
      InputError: a wrong configuration, before anything is written.
      NonFiniteError: the loss or its gradient was not finite.
      StorageError: the run could not be written, as on a full disk.
      Interrupted: SIGTERM or Ctrl-C; the run is saved and can go on.
    """
    files = Workdir(workdir)

    def check() -> bool:
        """Returns on the main process whether the run has finished before."""
        experiments.check(config)
        if not is_main_process():
            return False
        files.check(config, overwrite=overwrite)
        return not overwrite and files.read_summary() is not None

    def begin(held: ExitStack) -> tuple[Prepared, Experiment]:
        prepared = prepare(config)
        experiment = experiments.build(config, prepared)
        if is_main_process():
            held.enter_context(files.locked())
            files.begin(config, prepared.record, overwrite=overwrite)
        return prepared, experiment

    if agree(refuse_together(check)):
        say(f"already finished; nothing changed in {files.path}")
        return files.read_summary() or {}
    with ExitStack() as held:
        prepared, experiment = refuse_together(lambda: begin(held))
        if prepared.skipped:
            named = ", ".join(prepared.skipped[:3])
            say(f"left out {len(prepared.skipped)} images that do not decode: {named}")
        if config.num_epochs == 0:
            say(f"prepared, not trained: see {files.noise}")
            return {}
        return _train(config, files, prepared, experiment, say, progress, profile)


def _train(
    config: TrainConfig,
    files: Workdir,
    prepared: Prepared,
    experiment: Experiment,
    say: Callable[[str], None],
    progress: bool,
    profile: bool,
) -> dict[str, Any]:
    best = "validation_accuracy" if "validation" in experiment.evaluations else None
    checkpoints = Checkpoints(
        files.checkpoints, config.keep_checkpoints, config_digest(config), best
    )
    try:
        with _stop_signals() as stopped:
            run = _Run(config, files, experiment, checkpoints, stopped, say)
            run.train(progress, profile)
    finally:
        checkpoints.close()
    summary = summaries.summarize(config, prepared.record, run.entries)
    if is_main_process():
        files.write_summary(summary)
    return summary


class _Run:
    """A run in progress: its carry, its evaluations so far, its clock."""

    def __init__(
        self,
        config: TrainConfig,
        files: Workdir,
        experiment: Experiment,
        checkpoints: Checkpoints,
        stopped: Callable[[], int],
        say: Callable[[str], None],
    ):
        self._config, self._files, self._experiment = config, files, experiment
        self._checkpoints, self._stopped, self._say = checkpoints, stopped, say
        self._parallel = experiment.parallel
        self._rows_a_call = 1
        self._carry, self._step = self._start()
        self._saved_step = self._step
        self.entries = files.read_metrics(self._step) if is_main_process() else []
        self._earlier_seconds = (
            self.entries[-1]["elapsed_seconds"] if self.entries else 0.0
        )
        self._began = time.perf_counter()

    def train(self, progress: bool, profile: bool) -> None:
        per_epoch = self._experiment.steps_per_epoch
        epochs = range(self._step // per_epoch, self._config.num_epochs)
        bar = tqdm(
            initial=epochs.start,
            total=self._config.num_epochs,
            disable=not progress,
            unit="epoch",
            mininterval=0.1 if os.isatty(2) else 5.0,
        )
        # The second epoch from here, for the first one compiles.
        profiled = min(epochs.start + 1, epochs.stop - 1) if profile else None
        with bar:
            for epoch in epochs:
                with _profiler(self._files.path / "profile", epoch == profiled):
                    images_per_second = self._train_epoch(epoch)
                self._finish_epoch(epoch + 1, images_per_second)
                if epoch + 1 < epochs.stop:
                    self._leave_if_stopped()
                bar.update()
                if self.entries:
                    bar.set_postfix_str(summaries.progress_line(self.entries[-1]))

    def _start(self) -> tuple[Carry, int]:
        state = self._experiment.init()
        fresh = (state, self._parallel.place_data(TrainMetrics.zero()))
        restored = self._checkpoints.restore(
            self._parallel.abstract_stored_state(fresh), self._say
        )
        if restored is None:
            return fresh, 0
        step, arrays = restored
        self._say(f"going on at step {step} of {self._total_steps()}")
        return self._parallel.place_state(arrays), step

    def _train_epoch(self, epoch: int) -> float:
        """Runs what is left of an epoch; returns its images per second."""
        per_epoch = self._experiment.steps_per_epoch
        order = self._experiment.order(epoch)
        first = row = self._step - epoch * per_epoch
        if row == 0:
            zero = self._parallel.place_data(TrainMetrics.zero())
            self._carry = (self._carry[0], zero)
        began = time.perf_counter()
        while row < per_epoch:
            last = min(row + self._rows_a_call, per_epoch)
            call_began = time.perf_counter()
            self._carry = self._experiment.run_train((), self._carry, order, row, last)
            self._step += last - row
            self._check_finite()
            quick = time.perf_counter() - call_began < _CALL_SECONDS
            # Clocks differ: every process asks, and the main one's answer counts.
            rows = min(self._rows_a_call * (2 if quick else 1), per_epoch)
            self._rows_a_call = agree(rows)
            row = last
            # A finished epoch is evaluated first, for a resume begins with the next.
            if row < per_epoch:
                self._leave_if_stopped()
        seconds = time.perf_counter() - began
        return (per_epoch - first) * self._config.batch_size / seconds

    def _leave_if_stopped(self) -> None:
        if not any_process(bool(self._stopped())):
            return
        if self._saved_step != self._step:
            self._save()
        raise Interrupted(
            f"stopped at step {self._step} of {self._total_steps()} and saved; "
            "the same command goes on from here",
            self._stopped() or signal.SIGTERM,
        )

    def _finish_epoch(self, epoch: int, images_per_second: float) -> None:
        config = self._config
        last = epoch == config.num_epochs
        if last or epoch % config.eval_every == 0:
            entry = self._evaluate(epoch, images_per_second)
            self.entries.append(entry)
            if is_main_process():
                self._files.append_metrics(entry)
        if last or epoch % config.checkpoint_every == 0:
            self._save()

    def _evaluate(self, epoch: int, images_per_second: float) -> dict[str, Any]:
        state, metrics = self._carry[0], self._parallel.fetch(self._carry[1])
        sums = {name: f(state) for name, f in self._experiment.evaluations.items()}
        # The coefficients and the rate of the epoch's last step.
        coefficients = self._experiment.coefficients(self._step - 1)
        now = time.perf_counter()
        return {
            "epoch": epoch,
            "step": self._step,
            "learning_rate": float(self._experiment.learning_rate(self._step - 1)),
            **{name: float(value) for name, value in coefficients.items()},
            "train_loss": summaries.share(metrics.loss_sum, metrics.count),
            "skipped_steps": int(metrics.nonfinite_steps),
            **summaries.accuracies(sums),
            "images_per_second": round(images_per_second, 1),
            "elapsed_seconds": round(self._earlier_seconds + now - self._began, 3),
        }

    def _check_finite(self) -> None:
        metrics = self._parallel.fetch(self._carry[1])
        if self._config.on_nonfinite == "skip" or not metrics.nonfinite_steps:
            return
        name = self._config.loss.name
        raise NonFiniteError(
            f"the loss {name!r} or its gradient is not finite at step "
            f"{int(metrics.first_nonfinite_step)}; logits of this epoch within "
            f"[{float(metrics.logits_min):.3g}, {float(metrics.logits_max):.3g}]; "
            "lower --config.optimizer.learning_rate, set "
            "--config.optimizer.clip_norm=5, or --config.on_nonfinite=skip"
        )

    def _save(self) -> None:
        entry = self.entries[-1] if self.entries else {}
        numbers = None
        if entry.get("step") == self._step and "validation_accuracy" in entry:
            numbers = {"validation_accuracy": entry["validation_accuracy"]}
        stored = self._parallel.stored_state(self._carry)
        self._checkpoints.save(self._step, stored, numbers)
        self._saved_step = self._step

    def _total_steps(self) -> int:
        return self._config.num_epochs * self._experiment.steps_per_epoch


# Long enough that the host's part is nothing, short enough to answer Ctrl-C.
_CALL_SECONDS = 1.0


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Within it SIGTERM and Ctrl-C only set a number, 0 until then.

    A second one is taken as before, so that an impatient person can leave at once.
    """
    received = np.zeros((), np.int32)
    previous = {}

    def receive(number: int, frame: Any) -> None:
        received[...] = number
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, receive)
    except ValueError:
        pass  # not the main thread: whoever owns it handles signals
    try:
        yield lambda: int(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _profiler(directory: Path, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    with jax.profiler.trace(str(directory)):
        yield
