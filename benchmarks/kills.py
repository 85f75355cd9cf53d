"""Kills a run of the digits again and again; it must end as if nothing had happened.

    python benchmarks/kills.py [--kills=20] [--damaged=5] [--seed=0]
                               [--markdown=benchmarks/results/kills.md]

One run is never touched. The second is killed with SIGKILL: while a checkpoint is being
saved, a moment after an evaluation, and anywhere from its start on, in turn. The third
is killed as often as checkpoints are damaged, and each time its newest whole
checkpoint is truncated, emptied, has one bit flipped, loses a file or all its arrays.
Parameters, optimizer state, metrics, summary and noise of all three must be the same
bit for bit, but for the fields that hold seconds. The exit status is 1 if they are not.

Each kill waits for the moment that it is meant to interrupt, so a few epochs are enough
for each. If a run still ends before its last kill, all runs start again with twice the
epochs.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0


class TooShort(Exception):
    """A run that finished before it was killed."""


class Trainer:
    """Starts, watches and kills the training command on one workdir."""

    def __init__(
        self, workdir: Path, epochs: int, chance: random.Random, startup: float = 5.0
    ):
        self.workdir, self.chance = workdir, chance
        self._epochs, self._startup = epochs, startup
        self._log = workdir.with_suffix(".log")

    def start(self) -> subprocess.Popen:
        """Starts or resumes the run."""
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            f"--workdir={self.workdir}",
            f"--config.num_epochs={self._epochs}",
            "--config.checkpoint_every=1",
        ]
        with self._log.open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log)

    def finish(self) -> float:
        """Runs to the end; returns the seconds until it had evaluated once more."""
        evaluated, began = self.evaluations(), time.monotonic()
        process = self.start()
        self._wait(process, lambda: self.evaluations() > evaluated)
        startup = time.monotonic() - began
        status = process.wait(PATIENCE)
        if status != 0:
            raise SystemExit(f"train.py ended with status {status}: see {self._log}")
        return startup

    def kill_at(self, moment: str) -> None:
        """Starts the run and kills it.

        Raises:
          TooShort: it was no longer running.
        """
        process = self.start()
        evaluated, saving = self.evaluations(), self._saving()
        if moment == "while saving":
            self._wait(process, lambda: bool(self._saving() - saving))
            time.sleep(self.chance.uniform(0.0, 0.03))
        elif moment == "after an evaluation":
            more = self.chance.randint(1, 2)
            self._wait(process, lambda: self.evaluations() >= evaluated + more)
            time.sleep(self.chance.uniform(0.0, 0.1))
        else:
            seconds = self.chance.uniform(0.0, 1.2 * self._startup)
            self._wait(process, lambda: self.evaluations() > evaluated + 1, seconds)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise TooShort

    def evaluations(self) -> int:
        """Returns the number of lines in the metrics."""
        path = self.workdir / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def checkpoints(self) -> list[Path]:
        """Returns the whole checkpoints, the newest last."""
        directory = self.workdir / "checkpoints"
        found = directory.iterdir() if directory.exists() else ()
        whole = [path for path in found if path.name.isdigit()]
        return sorted(whole, key=lambda path: int(path.name))

    def said(self, text: str) -> int:
        """Returns how often the command has printed a text."""
        return self._log.read_text(errors="replace").count(text)

    def _saving(self) -> set[str]:
        directory = self.workdir / "checkpoints"
        found = directory.iterdir() if directory.exists() else ()
        return {path.name for path in found if "tmp" in path.name}

    def _wait(
        self,
        process: subprocess.Popen,
        until: Callable[[], bool],
        seconds: float = PATIENCE,
    ) -> None:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end and not until():
            time.sleep(0.001)


MOMENTS = ("while saving", "after an evaluation", "anywhere")


def kill(trainer: Trainer, times: int) -> list[str]:
    """Kills a run so many times and finishes it; returns a line on each kill."""
    lines = []
    while len(lines) < times:
        moment = MOMENTS[len(lines) % len(MOMENTS)]
        trainer.kill_at(moment)
        newest = trainer.checkpoints()
        lines.append(
            f"{moment}: {trainer.evaluations()} epochs evaluated, newest whole "
            f"checkpoint at step {newest[-1].name if newest else 'none'}"
        )
    trainer.finish()
    return lines


def truncate(checkpoint: Path) -> None:
    """Cuts the largest array file in half."""
    path = _largest(checkpoint)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(checkpoint: Path) -> None:
    """Leaves nothing in the largest array file."""
    _largest(checkpoint).write_bytes(b"")


def flip_bit(checkpoint: Path) -> None:
    """Flips one bit of the largest array file."""
    path = _largest(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_file(checkpoint: Path) -> None:
    """Removes the largest array file."""
    _largest(checkpoint).unlink()


def lose_arrays(checkpoint: Path) -> None:
    """Removes the arrays altogether."""
    shutil.rmtree(checkpoint / "arrays")


DAMAGES = (truncate, empty, flip_bit, lose_file, lose_arrays)


def damage(trainer: Trainer, times: int) -> list[str]:
    """Kills a run and damages its newest checkpoint so many times; finishes it."""
    lines = []
    for i in range(times):
        before = len(trainer.checkpoints())
        while (
            len(trainer.checkpoints()) < 2 or len(trainer.checkpoints()) == before == 0
        ):
            trainer.kill_at("after an evaluation")
        previous, newest = trainer.checkpoints()[-2:]
        harm = DAMAGES[i % len(DAMAGES)]
        harm(newest)
        passed_over = trainer.said(f"checkpoint {newest.name} is damaged")
        trainer.kill_at("after an evaluation")
        told = trainer.said(f"checkpoint {newest.name} is damaged") - passed_over
        resumed = trainer.said(f"going on at step {previous.name} ")
        lines.append(
            f"{harm.__name__.replace('_', ' ')} at step {newest.name}: "
            f"{'said' if told == 1 else 'NOT SAID'}, "
            f"{'went on' if resumed else 'did NOT go on'} at step {previous.name}"
        )
    trainer.finish()
    return lines


def differences(workdir: Path, reference: Path) -> list[str]:
    """Returns what is not the same in two finished runs."""
    found = [
        name
        for name, read in (("metrics", _metrics), ("summary", _summary))
        if read(workdir) != read(reference)
    ]
    if (workdir / "noise.npz").read_bytes() != (reference / "noise.npz").read_bytes():
        found.append("noise")
    ours, theirs = _arrays(workdir), _arrays(reference)
    if ours.keys() != theirs.keys():
        return [*found, "names of arrays"]
    same = {name: np.array_equal(ours[name], theirs[name]) for name in ours}
    return found + [name for name, equal in same.items() if not equal]


def _largest(checkpoint: Path) -> Path:
    files = [path for path in checkpoint.glob("arrays/**/d/*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _untimed(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if "second" not in key}


def _metrics(workdir: Path) -> list[dict[str, Any]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [_untimed(json.loads(line)) for line in lines]


def _summary(workdir: Path) -> dict[str, Any]:
    return _untimed(json.loads((workdir / "summary.json").read_text()))


def _arrays(workdir: Path) -> dict[str, np.ndarray]:
    import jax
    import orbax.checkpoint as ocp

    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    with ocp.StandardCheckpointer() as checkpointer:
        path = workdir / "checkpoints" / str(max(steps)) / "arrays"
        tree = checkpointer.restore(path.absolute())
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def run_all(
    base: Path, epochs: int, options: argparse.Namespace
) -> tuple[Trainer, list[tuple[str, Trainer, list[str]]]]:
    """Runs all three; returns the untouched one, and the others with their lines."""
    chance = random.Random(options.seed)
    base.mkdir(parents=True)
    reference = Trainer(base / "reference", epochs, chance)
    startup = reference.finish()
    killed, damaged = (
        Trainer(base / name, epochs, chance, startup) for name in ("killed", "damaged")
    )
    return reference, [
        ("killed", killed, kill(killed, options.kills)),
        ("damaged", damaged, damage(damaged, options.damaged)),
    ]


def main() -> None:
    """Runs what the command line asks for and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damaged", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--markdown", type=Path, help="also write the report there")
    options = parser.parse_args()
    base = options.workdir or Path(tempfile.mkdtemp(prefix="dal_jax_kills_"))
    epochs = 10 + 3 * max(options.kills, 2 * options.damaged)
    while True:
        try:
            reference, results = run_all(base / f"{epochs}_epochs", epochs, options)
            break
        except TooShort:
            print(f"{epochs} epochs are over too soon", file=sys.stderr)
            epochs *= 2
    report, failed = ["# Kills and damaged checkpoints", ""], False
    report += [machine.markdown(machine.describe()), f"- epochs: {epochs}", ""]
    for name, trainer, lines in results:
        differing = differences(trainer.workdir, reference.workdir)
        failed |= bool(differing) or any("NOT" in line for line in lines)
        verdict = f"DIFFERENT in {', '.join(differing)}" if differing else "identical"
        report += [f"## {len(lines)} times {name}: {verdict}", ""]
        report += [f"{i}. {line}" for i, line in enumerate(lines, 1)] + [""]
    print("\n".join(report))
    if options.markdown:
        options.markdown.write_text("\n".join(report))
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
