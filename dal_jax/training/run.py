"""A run in progress: its epochs, evaluations and checkpoints, and how it stops."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dal_jax.progress import progress_bar
from dal_jax.training import summary as summaries
from dal_jax.training.evaluation import Evaluated
from dal_jax.training.experiment import Carry, Experiment
from dal_jax.training.feed import Pace
from dal_jax.training.plan import Plan
from dal_jax.training.processes import agree, any_process
from dal_jax.training.state import Predictions, TrainMetrics, TrainState
from dal_jax.training.stopping import Stop
from dal_jax.training.storage import Entry, Storage


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not finite: one line with where and what to do."""


class Run:
    """A run in progress: its carry, its evaluations so far, its clock.

    Attributes:
      entries: the evaluations so far, on the main process.
    """

    def __init__(
        self,
        plan: Plan,
        experiment: Experiment,
        storage: Storage,
        stop: Stop,
        say: Callable[[str], None],
        on_evaluation: Callable[[Entry], Any] | None = None,
    ):
        """Begins, or continues from the newest undamaged checkpoint."""
        self._plan, self._options, self._experiment = plan, plan.options, experiment
        self._storage, self._stop, self._say = storage, stop, say
        self._on_evaluation, self._ended = on_evaluation, False
        self._parallel = experiment.parallel
        self._pace = Pace(experiment.run_train.unit)
        self._coefficients = jax.jit(plan.loss.coefficients)
        self._total_steps = plan.options.num_epochs * experiment.steps_per_epoch
        self._carry, self._step = self._start()
        self._saved_step = self._step
        self._found: dict[str, Evaluated] = {}
        self.entries: list[Entry] = storage.entries(self._step)
        self._earlier_seconds = (
            self.entries[-1]["elapsed_seconds"] if self.entries else 0.0
        )
        self._began = time.perf_counter()

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return self._step

    @property
    def state(self) -> TrainState:
        """The state as it is now, as host arrays."""
        return self._parallel.fetch(self._carry[0])

    def predictions(self) -> Predictions | None:
        """Returns what is predicted of each example of the reported split, if any.

        Of the last evaluation; a run that went on after it evaluates that split again.
        """
        name = self._plan.reported_split
        if name is None:
            return None
        if name not in self._found:
            evaluate = self._experiment.evaluations[name]
            with self._leavable():
                self._found[name] = evaluate(self._carry[0], self._leave_if_stopped)
        return self._found[name].predictions

    def train(self, progress: bool, profile: Path | None) -> None:
        """Trains the rest of the run; writes a profile to a directory if given one."""
        if self._step:
            self._say(f"going on at step {self._step} of {self._total_steps}")
        epochs = range(
            self._step // self._experiment.steps_per_epoch, self._options.num_epochs
        )
        bar = progress_bar(
            initial=epochs.start,
            total=self._options.num_epochs,
            disable=not progress,
            unit="epoch",
        )
        # The second epoch from here, for the first one compiles.
        profiled = min(epochs.start + 1, epochs.stop - 1)
        with bar:
            if self._stopped_before_evaluation():
                self._finish_epoch(epochs.start, None)
            for epoch in epochs:
                if self._ended:
                    break
                with _profiler(profile if epoch == profiled else None):
                    examples_per_second = self._train_epoch(epoch)
                self._finish_epoch(epoch + 1, examples_per_second)
                bar.update()
                if self.entries:
                    bar.set_postfix_str(summaries.progress_line(self.entries[-1]))

    def _start(self) -> tuple[Carry, int]:
        state = self._experiment.init()
        fresh = (state, self._parallel.place_data(TrainMetrics.zero()))
        # Version 0.1.0 saved no dynamics: what it has begun gathers them from here on.
        dynamics = self._parallel.stored_state(fresh)[0].dynamics
        restored = self._storage.restore(
            self._parallel.abstract_stored_state(fresh),
            self._say,
            ({"dynamics": dynamics},),
        )
        if restored is None:
            return fresh, 0
        step, arrays = restored
        return self._parallel.place_state(arrays), step

    def _stopped_before_evaluation(self) -> bool:
        epoch, row = divmod(self._step, self._experiment.steps_per_epoch)
        if row or not epoch or not self._is_evaluated(epoch):
            return False
        evaluated = bool(self.entries) and self.entries[-1]["step"] == self._step
        return not agree(evaluated)

    def _is_evaluated(self, epoch: int) -> bool:
        return (
            epoch == self._options.num_epochs or epoch % self._options.eval_every == 0
        )

    def _train_epoch(self, epoch: int) -> float:
        """Runs the rest of an epoch; returns its examples per second."""
        per_epoch = self._experiment.steps_per_epoch
        order = self._experiment.order(epoch)
        begin = self._step - epoch * per_epoch
        if begin == 0:
            zero = self._parallel.place_data(TrainMetrics.zero())
            self._carry = (self._carry[0], zero)
        began = time.perf_counter()
        for first, last in self._pace.calls(begin, per_epoch):
            self._leave_if_stopped()
            # What compiles for long is a call whose steps are the first ones.
            with self._leavable(self._saved_step == self._step):
                self._carry = self._experiment.run_train(
                    self._experiment.context, self._carry, order, first, last
                )
                self._check_finite()
            self._step += last - first
        seconds = time.perf_counter() - began
        return (per_epoch - begin) * self._options.batch_size / seconds

    def _finish_epoch(self, epoch: int, examples_per_second: float | None) -> None:
        if self._is_evaluated(epoch):
            entry = self._evaluate(epoch, examples_per_second)
            self.entries.append(entry)
            self._storage.append(entry)
            asked = self._on_evaluation is not None and self._on_evaluation(entry)
            # Nothing but a truth value: a callback may return what it likes.
            true = isinstance(asked, bool | np.bool_) and bool(asked)
            self._ended = bool(agree(true))
        last = epoch == self._options.num_epochs or self._ended
        due = last or epoch % self._options.checkpoint_every == 0
        # A stop before the evaluation has saved this step, but without the accuracy
        # that tells which is the best.
        if due and (self._saved_step != self._step or self._validation() is not None):
            self._save()

    def _evaluate(
        self, epoch: int, examples_per_second: float | None
    ) -> dict[str, Any]:
        state, metrics = self._carry[0], self._parallel.fetch(self._carry[1])
        with self._leavable():
            self._found = {
                name: evaluate(state, self._leave_if_stopped)
                for name, evaluate in self._experiment.evaluations.items()
            }
        # At the epoch's last step.
        rates = {k: f(self._step - 1) for k, f in self._plan.schedules.items()}
        rates |= self._coefficients(self._step - 1)
        now = time.perf_counter()
        return {
            "epoch": epoch,
            "step": self._step,
            **{name: float(value) for name, value in rates.items()},
            "train_loss": summaries.share(metrics.loss_sum, metrics.count),
            "skipped_steps": int(metrics.nonfinite_steps),
            **summaries.accuracies(
                {name: found.sums for name, found in self._found.items()}
            ),
            "images_per_second": examples_per_second and round(examples_per_second, 1),
            "elapsed_seconds": round(self._earlier_seconds + now - self._began, 3),
        }

    def _check_finite(self) -> None:
        metrics = self._parallel.fetch(self._carry[1])
        if self._options.on_nonfinite == "skip" or not metrics.nonfinite_steps:
            return
        raise NonFiniteError(
            f"the loss {self._plan.loss_name!r} or its gradient is not finite at step "
            f"{int(metrics.first_nonfinite_step)}; logits of this epoch within "
            f"[{float(metrics.logits_min):.3g}, {float(metrics.logits_max):.3g}]; "
            "lower the learning rate (optimizer.learning_rate), clip the gradient "
            "(optimizer.clip_norm=5), or skip such steps (on_nonfinite=skip)"
        )

    def _leave_if_stopped(self) -> None:
        if any_process(bool(self._stop.signal_number)):
            self._stop.leave(self._leave)

    def _leavable(self, nothing_in_flight: bool = True) -> AbstractContextManager[None]:
        return self._stop.may_leave(self._leave) if nothing_in_flight else nullcontext()

    def _leave(self) -> str:
        """Saves the state if it is not saved yet; returns the line to end with."""
        if self._saved_step != self._step:
            self._save()
        self._storage.wait()
        if self._step == 0:
            return "stopped before the first step; the same command begins again"
        return (
            f"stopped at step {self._step} of {self._total_steps} and saved; "
            "the same command goes on from here"
        )

    def _save(self) -> None:
        stored = self._parallel.stored_state(self._carry)
        self._storage.save(self._step, stored, self._validation())
        self._saved_step = self._step

    def _validation(self) -> float | None:
        """Returns the noisy validation accuracy of this very step, if there is one."""
        entry = self.entries[-1] if self.entries else {}
        of_this_step = entry.get("step") == self._step
        return entry.get("validation_accuracy") if of_this_step else None


@contextmanager
def _profiler(directory: Path | None) -> Iterator[None]:
    if directory is None:
        yield
        return
    with jax.profiler.trace(str(directory)):
        yield
