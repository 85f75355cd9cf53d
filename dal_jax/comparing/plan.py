"""What a comparison trains: losses, noises, swept settings and seeds, crossed."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dal_jax import data, losses, recipe
from dal_jax.comparing.sweeps import Sweep
from dal_jax.config import DatasetConfig, TrainConfig, plain
from dal_jax.errors import InputError, unknown_name
from dal_jax.losses import presets

_BY_PATH = ("file", "transition_matrix")


@dataclasses.dataclass(frozen=True)
class Noise:
    """A kind of noise with its rate or its file."""

    kind: str
    rate: float | None = None
    path: str | None = None

    @property
    def label(self) -> str:
        """A name fit for a directory."""
        if self.path is None:
            return self.kind if self.kind == "none" else f"{self.kind}-{self.rate:g}"
        path = Path(self.path)
        return f"{path.parent.name}-{path.stem}" if path.parent.name else path.stem


def parse_noise(text: str) -> Noise:
    """Returns the noise that ``KIND:RATE``, ``KIND:PATH`` or ``none`` stands for.

    Example:
      >>> parse_noise("symmetric:0.4").label, parse_noise("file:human/worst.npy").label
      ('symmetric-0.4', 'human-worst')
    """
    kind, _, option = text.partition(":")
    if kind in _BY_PATH and option:
        return Noise(kind, path=option)
    if text == "none":
        return Noise(kind, rate=0.0)
    try:
        if kind == "none":  # which has no rate
            raise ValueError
        return Noise(kind, rate=float(option))
    except ValueError:
        raise InputError(
            f"noise {text!r}: expected KIND:RATE such as symmetric:0.4, or file:PATH, "
            "or none; write it so"
        ) from None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes:
      loss: by name.
      noise: of its labels.
      seed: of everything.
      setting: the swept fields that count for its loss, with their values.
      config: all of it.
    """

    loss: str
    noise: Noise
    seed: int
    setting: Mapping[str, Any]
    config: TrainConfig

    @property
    def method(self) -> str:
        """The loss with its setting."""
        return " ".join([self.loss, *(f"{k}={v}" for k, v in self._short().items())])

    @property
    def name(self) -> str:
        """A relative path that no other run of the comparison has."""
        parts = [self.loss, *(f"{k}={v}" for k, v in self._short().items())]
        method = re.sub(r"[^\w.,=()+-]", "_", ",".join(parts))
        return f"{self.noise.label}/{method}/seed{self.seed}"

    def _short(self) -> dict[str, Any]:
        return {k.removeprefix("loss."): v for k, v in self.setting.items()}


def configure(
    base: TrainConfig,
    loss: str,
    noise: Noise,
    seed: int,
    setting: Mapping[str, Any] | None = None,
) -> Run:
    """Returns a run of a comparison.

    A loss that assumes a noise rate gets the noise's. Of the base, hyper-parameters and
    presets that are not the loss's own are left out.

    Args:
      base: what all runs share.
      loss: by name.
      noise: of the labels.
      seed: of the run.
      setting: swept fields that count for the loss, with their values.

    Example:
      >>> noise = parse_noise("symmetric:0.2")
      >>> run = configure(TrainConfig(), "gce", noise, 1, {"loss.q": 0.5})
      >>> run.method, run.config.noise.rate
      ('gce q=0.5', 0.2)
    """
    config = copy.deepcopy(base)
    config.loss.name, config.seed = loss, seed
    config.noise.kind, config.noise.path = noise.kind, noise.path
    config.noise.rate = TrainConfig().noise.rate if noise.rate is None else noise.rate
    for name in set(config.loss.hyperparameters) - set(losses.accepted(loss)):
        setattr(config.loss, name, None)
    if config.loss.preset is not None and not presets.holds(config.loss.preset, loss):
        config.loss.preset = None
    setting = dict(setting or {})
    for field, value in setting.items():
        *parents, name = field.split(".")
        setattr(functools.reduce(getattr, parents, config), name, value)
    if "noise_rate" in losses.accepted(loss) and config.loss.noise_rate is None:
        config.loss.noise_rate = noise.rate
    return Run(loss, noise, seed, setting, config)


def settings_of(loss: str, sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Returns the settings of a loss: all values crossed that count for it.

    A field that the loss does not have is in none of them.

    Example:
      >>> sweeps = [Sweep("loss.q", (0.5, 0.7)), Sweep("batch_size", (64,))]
      >>> settings_of("gce", sweeps)[0], settings_of("ce", sweeps)
      ({'loss.q': 0.5, 'batch_size': 64}, [{'batch_size': 64}])
    """
    counting = {}
    for field, values in sweeps:
        if useful := [value for value in values if _counts(field, value, loss)]:
            counting[field] = useful
    return [
        dict(zip(counting, values, strict=True))
        for values in itertools.product(*counting.values())
    ]


def _counts(field: str, value: Any, loss: str) -> bool:
    """Whether a field with a value can change anything for a loss."""
    if field == "loss.preset":
        return value is None or presets.holds(value, loss)
    return not field.startswith("loss.") or field[5:] in losses.accepted(loss)


def make_plan(
    base: TrainConfig,
    loss_names: Sequence[str],
    noises: Sequence[Noise],
    seeds: Iterable[int],
    sweeps: Sequence[Sweep] = (),
) -> list[Run]:
    """Returns the runs of a comparison, each checked as far as it can be without data.

    Seeds are the outermost loop, so that a comparison that is cut short has all losses
    with its first seeds. A loss for which no swept field counts is trained once.

    Raises:
      InputError: whatever is wrong with one of the runs.

    Example:
      >>> sweep = Sweep("loss.q_end", (1.5, 2.0))
      >>> runs = make_plan(TrainConfig(), ["ce", "dal"],
      ...                  [parse_noise("symmetric:0.4")], [0], [sweep])
      >>> [run.method for run in runs]
      ['ce', 'dal q_end=1.5', 'dal q_end=2.0']
    """
    _check_names(loss_names, noises)
    _check_counts(base, loss_names, sweeps)
    methods = [(x, setting) for x in loss_names for setting in settings_of(x, sweeps)]
    runs: dict[str, Run] = {}
    for seed, noise, (loss, setting) in itertools.product(seeds, noises, methods):
        run = configure(base, loss, noise, seed, setting)
        if runs.setdefault(run.name, run) is not run:
            raise InputError(
                f"two runs would be called {run.name}: expected values that differ in "
                "more than punctuation; give others"
            )
    for run in runs.values():
        with _naming(run):
            recipe.check(run.config)
    return list(runs.values())


def check_data(runs: Iterable[Run]) -> None:
    """Loads the data of some runs and makes their noise, once for each that differs.

    Raises:
      InputError: whatever is wrong with the data or the noise.
    """
    checked, of_data, prepared = set(), "", None
    for run in runs:
        values = plain(run.config)
        del values["seed"]
        same_data = json.dumps([values["dataset"], values["noise"]])
        if (everything := json.dumps(values)) in checked:
            continue
        checked.add(everything)
        with _naming(run):
            if same_data != of_data or prepared is None:
                dataset = dataset_of(run.config.dataset)
                of_data, prepared = same_data, recipe.prepare(run.config, dataset)
            recipe.ingredients(run.config, prepared)


def dataset_of(config: DatasetConfig) -> data.Dataset:
    """Returns a data set, the last one that was asked for without loading it again."""
    return _loaded(json.dumps(dataclasses.asdict(config)))


@functools.lru_cache(maxsize=1)
def _loaded(dataset: str) -> data.Dataset:
    return data.load(DatasetConfig(**json.loads(dataset)))


def _check_names(loss_names: Sequence[str], noises: Sequence[Noise]) -> None:
    for name in loss_names:
        if name not in losses.names():
            raise unknown_name("loss", name, losses.names())
    for what, given in (("loss", loss_names), ("noise", [n.label for n in noises])):
        twice = sorted({name for name in given if list(given).count(name) > 1})
        if twice:
            raise InputError(
                f"{what} {twice[0]!r} is given twice, or two have that name: expected "
                "each once; leave one out, or rename a file"
            )


def _check_counts(
    base: TrainConfig, loss_names: Sequence[str], sweeps: Sequence[Sweep]
) -> None:
    """Refuses what would change nothing for any of the losses."""
    given = {f"loss.{k}": v for k, v in base.loss.hyperparameters.items()}
    given.pop("loss.per_epoch", None)  # a recipe's, whatever the loss
    asked = [(f"--config.{field}", field, v) for field, v in given.items()]
    asked += [("--sweep=" + s.field, s.field, v) for s in sweeps for v in s.values]
    for flag, field, value in asked:
        if not any(_counts(field, value, loss) for loss in loss_names):
            raise InputError(
                f"{flag} with {value} changes nothing for {', '.join(loss_names)}: "
                "expected what one of them has; leave it out, or compare a loss that "
                "has it"
            )


@contextlib.contextmanager
def _naming(run: Run) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{run.name}: {error}") from error
