"""What the tests of comparisons share: small ones, and the command in this process."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# A run takes a fraction of a second once its programs are compiled.
SMALL = (
    "--config.num_epochs=2",
    "--config.dataset.train_size=128",
    "--config.dataset.test_size=50",
    "--config.model.name=mlp",
    "--config.model.hidden=8",
    "--losses=ce,dal",
    "--processes=1",
)


class Outcome(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def _no_reports() -> Iterator[None]:
    """Leaves out the page about each run, which others test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dal_jax.report.write", lambda *_, **__: None)
        yield


@pytest.fixture
def compare(capsys) -> Callable[..., Outcome]:
    """Runs ``dal-jax compare`` on something small."""
    from dal_jax.commands.compare import main

    def run(workdir: Path, *arguments: str) -> Outcome:
        status = 0
        try:
            main(["dal-jax compare", f"--workdir={workdir}", *SMALL, *arguments])
        except SystemExit as error:
            status = int(error.code or 0)
        said = capsys.readouterr()
        return Outcome(status, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads results.csv, without the times."""

    def read(workdir: Path) -> list[dict[str, Any]]:
        with (workdir / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert row.pop("seconds") or row["error"]
        return rows

    return read
