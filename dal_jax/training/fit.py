"""Objects in, a run out."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from dal_jax.data.augment import Preprocess
from dal_jax.errors import InputError
from dal_jax.noise import NoiseRecord
from dal_jax.training import directory, environment, events
from dal_jax.training import experiment as experiments
from dal_jax.training import summary as summaries
from dal_jax.training.checkpoint import Checkpoints
from dal_jax.training.dynamics import summary as summarize_dynamics
from dal_jax.training.fingerprint import Identity, fingerprint
from dal_jax.training.plan import Plan, Schedules, make_plan
from dal_jax.training.predict import make_predict_logits
from dal_jax.training.processes import agree, is_main_process, refuse_together
from dal_jax.training.run import Run
from dal_jax.training.state import TrainState
from dal_jax.training.stopping import Stop
from dal_jax.training.storage import Directory, Entry, Nowhere
from dal_jax.training.workdir import Workdir

if TYPE_CHECKING:
    from dal_jax.analysis import LabelIssues

STOPPED_EARLY = "stopped while preparing; the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes:
      metrics: one dictionary an evaluation, as the lines of ``metrics.jsonl``.
      summary: as ``summary.json``.
      state: everything that training changed, as host arrays.
      plan: the objects that were trained.
    """

    metrics: list[Entry]
    summary: dict[str, Any]
    state: TrainState
    plan: Plan

    @property
    def params(self) -> Any:
        """What the optimizer trained, averaged where an average was asked for."""
        return self.state.predictor[0]

    @property
    def model_state(self) -> Any:
        """What the network keeps beside its parameters."""
        return self.state.predictor[1]

    def predict_logits(self, inputs: Any) -> np.ndarray:
        """Returns the logits ``[N, ..., num_classes]`` of inputs ``[N, ...]``.

        Inputs are as in training, before any preprocessing.
        """
        return self._predict_logits(inputs)

    @functools.cached_property
    def dynamics(self) -> dict[str, np.ndarray] | None:
        """What was seen of every training example, as ``dynamics.npz``.

        In the order of ``plan.record``; ``None`` where nothing was gathered.
        """
        if self.plan.phases is None:
            return None
        return summarize_dynamics(self.state.dynamics)

    def label_issues(self) -> "LabelIssues":
        """Returns which of the training set's given labels are likely wrong.

        The examples are in the order of ``plan.record``.

        Raises:
          InputError: nothing was gathered of the examples: they have several labels
            each, or none that is a class.
        """
        from dal_jax.analysis import of_dynamics  # scipy takes its time

        if self.dynamics is None:
            raise InputError(
                "nothing was gathered of this run's examples: expected one label an "
                "example, a class; train on such labels to audit them"
            )
        return of_dynamics(
            self.plan.record.noisy_labels, self.dynamics, len(self.plan.class_names)
        )

    @functools.cached_property
    def _predict_logits(self) -> Callable[[Any], np.ndarray]:
        return make_predict_logits(
            self.plan.model,
            self.plan.preprocess,
            *jax.device_put(self.state.predictor),
            input_shape=self.plan.train.input_shape,
            batch_size=self.plan.options.eval_batch_size,
        )


def fit(
    model: Any,
    train: Any,
    *,
    loss: Any,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    batch_size: int,
    test: Any = None,
    validation: Any = None,
    seed: int = 0,
    workdir: str | os.PathLike[str] | None = None,
    on_evaluation: Callable[[Entry], Any] | None = None,
    preprocess: Preprocess | None = None,
    class_names: tuple[str, ...] | None = None,
    record: NoiseRecord | None = None,
    seeds: Mapping[str, int] | None = None,
    loss_name: str | None = None,
    schedules: Schedules | None = None,
    identity: Identity | None = None,
    overwrite: bool = False,
    stop: Stop | None = None,
    say: Callable[[str], None] = lambda line: None,
    notes: Sequence[str] = (),
    progress: bool = False,
    profile: bool = False,
    tensorboard: bool = False,
    **options: Any,
) -> FitResult:
    """Trains a network on given labels, or goes on where the same run stopped.

    Args:
      model: an ``nnx.Module``, a function ``(rngs: nnx.Rngs) -> nnx.Module``, a
        ``flax.linen.Module``, or a ``models.Functional``; see
        :func:`dal_jax.models.functionalize`.
      train: ``(inputs, labels)`` or a ``data.Split``; inputs ``[N, ...]`` of any shape
        and dtype, labels integers ``[N]``, or ``[N, T]`` where logits are
        ``[N, T, num_classes]``.
      loss: any ``loss(logits, labels, step)``, of each example, or a
        ``losses.StatefulLoss``. Training minimises its mean over what it returns.
      optimizer: any optax gradient transformation; one that takes extra arguments is
        given the ``step``.
      num_epochs: passes over the training set.
      batch_size: examples a step, over all devices; the last batch of an epoch is
        filled up with the epoch's first examples.
      test: data that is evaluated for the report and decides nothing.
      validation: held-out data with given labels; the checkpoint with the best
        accuracy on it is kept.
      seed: initialisation, data order and augmentation derive from it, by name.
      workdir: where the run is written and can go on; ``None`` writes nothing. The
        same objects go on where they stopped; others are refused.
      on_evaluation: called with each line of metrics; returning True ends the run.
      preprocess: raw inputs to the network's, inside the compiled step. Default:
        uint8 images are scaled to [0, 1], all else is left as it is.
      class_names: one a class; default their numbers.
      record: where the given labels come from, if more is known than the labels.
      seeds: of single sources of randomness, see ``plan.SOURCES_OF_RANDOMNESS``.
      loss_name: how the summary names the loss.
      schedules: functions of the step whose values each line of metrics reports, by
        name, e.g. ``{"learning_rate": schedule}``.
      identity: what stands for the run in ``config.json``; default: a fingerprint of
        the objects.
      overwrite: remove what an earlier run left in the workdir, and start anew.
      stop: what asks the run to stop; by default nothing does, and signals are left
        alone.
      say: told in single lines what a person would want to know.
      notes: such lines, about what the arguments were made of; said once all is
        checked.
      progress: show a progress bar on standard error.
      profile: write a JAX profile of the second epoch to ``workdir/profile``.
      tensorboard: write event files to ``workdir/tensorboard``.
      **options: the further fields of :class:`~dal_jax.training.plan.Options`.

    Returns:
      The finished run.

    Raises:
      InputError: what cannot be trained, before anything is written.
      NonFiniteError: the loss or its gradient was not finite.
      StorageError: the run could not be written, as on a full disk.
      Interrupted: ``stop`` asked for it; the run is saved and can go on.

    Example:
      >>> import numpy as np, optax
      >>> from flax import nnx
      >>> from dal_jax import losses
      >>> labels = np.arange(64) % 2
      >>> inputs = labels[:, None] + np.zeros((1, 3), np.float32)
      >>> result = fit(lambda rngs: nnx.Linear(3, 2, rngs=rngs), (inputs, labels),
      ...              loss=losses.make("dal", total_steps=40), num_epochs=10,
      ...              optimizer=optax.adam(0.1), batch_size=16)
      >>> result.metrics[-1]["train_accuracy"]
      1.0
      >>> result.predict_logits(inputs[:3]).shape
      (3, 2)
    """

    def prepare() -> Plan:
        if tensorboard:
            events.require()
        return make_plan(
            model,
            train,
            loss=loss,
            optimizer=optimizer,
            num_epochs=num_epochs,
            batch_size=batch_size,
            test=test,
            validation=validation,
            preprocess=preprocess,
            class_names=class_names,
            record=record,
            seed=seed,
            seeds=seeds,
            loss_name=loss_name,
            schedules=schedules,
            **options,
        )

    stop = stop or Stop()
    with stop.at_once(STOPPED_EARLY):
        plan = refuse_together(prepare)
        experiment = refuse_together(lambda: experiments.build(plan))
    if workdir is None:
        run = Run(plan, experiment, Nowhere(), stop, say, on_evaluation)
        _say_all(notes, say)
        run.train(progress, None)
        return _result(plan, run)
    identity = identity or fingerprint(plan)
    with ExitStack() as held:
        files = Workdir(workdir)
        with stop.at_once(STOPPED_EARLY):
            finished = refuse_together(
                lambda: directory.begin(files, plan, identity, overwrite, held)
            )
            finished = agree(finished)
        if num_epochs == 0:
            _say_all(notes, say)
            state = experiment.parallel.fetch(experiment.init())
            return FitResult([], {}, state, plan)
        best = "validation_accuracy" if plan.validation is not None else None
        checkpoints = Checkpoints(files, plan.options.keep_checkpoints, best)
        storage = Directory(files, checkpoints, tensorboard and not finished)
        try:
            with stop.may_leave(lambda: STOPPED_EARLY):
                run = Run(plan, experiment, storage, stop, say, on_evaluation)
            predictions = None
            if finished:
                say(f"already finished; nothing changed in {files.path}")
            else:
                _say_all(notes, say)
                if is_main_process():
                    environment.note(files, run.step)
                run.train(progress, files.path / "profile" if profile else None)
                predictions = run.predictions()
        finally:
            storage.close()
        result = _result(plan, run)
        if not finished:
            directory.finish(
                files, plan, result.summary, result.dynamics, predictions, say
            )
    return result


def _say_all(notes: Sequence[str], say: Callable[[str], None]) -> None:
    for note in notes:
        say(note)


def _result(plan: Plan, run: Run) -> FitResult:
    summary = summaries.summarize(plan.loss_name, plan.record, run.entries)
    return FitResult(run.entries, summary, run.state, plan)
