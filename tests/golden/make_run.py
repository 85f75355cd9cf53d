"""Makes run_0_1_0.zip: a run that version 0.1.0 of this program stopped half-way.

    git checkout 394e7aa && python tests/golden/make_run.py

Later versions go on from it. Eight steps of a small network on a few digits, stopped by
SIGTERM at the sixth: one evaluation, one checkpoint. It runs with that version alone.
"""

import dataclasses
import os
import shutil
import signal
import tempfile
from pathlib import Path
from unittest import mock

from dal_jax.config import DatasetConfig, ModelConfig, TrainConfig
from dal_jax.training import Interrupted, experiment, feed, train_and_evaluate

CONFIG = TrainConfig(
    dataset=DatasetConfig(train_size=16, test_size=10),
    model=ModelConfig("mlp", hidden=(2,)),
    batch_size=4,
    num_epochs=2,
    checkpoint_every=1,
    keep_checkpoints=1,
)


def stopped_at(step: int) -> None:
    """Has this process told to stop while it takes a step."""
    build, calls = experiment.build, []

    def build_stopping(config, prepared):
        built = build(config, prepared)

        def run(*arguments):
            calls.append(None)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return built.run_train.run(*arguments)

        runner = dataclasses.replace(built.run_train, run=run)
        return dataclasses.replace(built, run_train=runner)

    experiment.build = build_stopping


def main() -> None:
    workdir = Path(tempfile.mkdtemp()) / "run"
    stopped_at(6)
    # One step a call.
    with mock.patch.object(feed, "_CALL_SECONDS", 0.0):
        try:
            train_and_evaluate(CONFIG, workdir)
        except Interrupted as error:
            print(error)
    # Orbax notes there where it was made, which nobody reads.
    for note in workdir.rglob("commit_success.txt"):
        note.write_text("committed")
    archive = Path(__file__).with_name("run_0_1_0")
    shutil.make_archive(str(archive), "zip", workdir)


if __name__ == "__main__":
    main()
