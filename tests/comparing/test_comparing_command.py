"""The command: what it writes, what it repeats, what it refuses."""

import json
import re

import pytest

from dal_jax.comparing.plan import configure, parse_noise
from dal_jax.comparing.progress import Progress
from dal_jax.comparing.study import Study
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError

# ml_collections imports configurations by it.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

ONE = ("--noises=symmetric:0.4", "--seeds=1")


def test_runs_are_trained_once_and_only_what_is_new_is_added(
    compare, read_rows, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr("dal_jax.comparing.results.pictures", lambda *_: ())
        assert compare(tmp_path / "c", *ONE, "--losses=ce").status == 0
    first = read_rows(tmp_path / "c")
    assert [(r["loss"], r["noise"], r["seed"]) for r in first] == [
        ("ce", "symmetric-0.4", "0")
    ]
    runs = tmp_path / "c" / "runs"
    written = {p: p.stat().st_mtime_ns for p in runs.rglob("metrics.jsonl")}
    assert len(written) == 1

    more = compare(tmp_path / "c", "--seeds=2", "--noises=symmetric:0.4")
    assert more.status == 0
    rows = read_rows(tmp_path / "c")
    assert len(rows) == 4
    assert [row for row in rows if row in first] == first
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert len(more.err.splitlines()) == 3  # a line a new run
    assert "(4 of 4 runs)" in more.err

    text = (tmp_path / "c" / "results.md").read_text()
    assert text in more.out
    assert "paired t-test over 2 seeds" in text
    assert "dal-jax compare" in text.split("How it was made")[1]
    assert "2 pairs cannot reach 0.05 in an exact Wilcoxon test" in text
    # What was best on the test set is in the CSV alone.
    best = {row["test_accuracy_best"] for row in rows}
    assert all(re.fullmatch(r"0\.\d+", value) for value in best)
    assert "best" not in re.sub("1 is the best", "", text)
    for name in ("accuracy_over_epochs", "memorized_corrected"):
        for ending in (".png", ".svg"):
            assert (tmp_path / "c" / (name + ending)).stat().st_size > 1000


def test_columns_are_those_promised(compare, tmp_path, monkeypatch):
    monkeypatch.setattr("dal_jax.comparing.results.pictures", lambda *_: ())
    sweep = "--sweep=optimizer.learning_rate:0.05,1e30"
    outcome = compare(tmp_path / "c", *ONE, "--losses=ce", sweep)
    assert outcome.status == 0
    lines = (tmp_path / "c" / "results.csv").read_text().splitlines()
    assert lines[0] == (
        "loss,noise,seed,optimizer.learning_rate,realised_noise_rate,"
        "test_accuracy_last,test_accuracy_mean_last_10,test_accuracy_best,"
        "memorized,corrected,seconds,error"
    )
    # The run that failed says why, and the other one went on.
    failed = [line for line in lines if ",1e+30," in line]
    assert len(lines) == 3
    assert re.fullmatch(r'ce,symmetric-0\.4,0,1e\+30,{7},"?the loss .*', failed[0])
    assert "1 failed" in outcome.err
    assert "Runs that failed" in (tmp_path / "c" / "results.md").read_text()
    # It would fail again, so it is not trained again.
    again = compare(tmp_path / "c", *ONE, "--losses=ce", sweep)
    assert (again.status, again.err) == (0, "")


def test_validation_chooses_a_setting(compare, tmp_path):
    arguments = (
        *ONE,
        "--losses=dal",
        "--config.dataset.validation_fraction=0.25",
        "--config.train_eval_size=0",
    )
    sweeps = ("--sweep=loss.q_end:1.5", "--sweep=optimizer.learning_rate:1e-5,0.5")
    outcome = compare(tmp_path / "c", *arguments, *sweeps, "--select=validation")
    assert outcome.status == 0
    runs = tmp_path / "c" / "runs" / "symmetric-0.4"
    accuracy = {
        path.parent.parent.name: json.loads(path.read_text())[
            "validation_accuracy_last"
        ]
        for path in runs.rglob("summary.json")
    }
    assert len(set(accuracy.values())) == 2
    chosen = max(accuracy, key=lambda name: accuracy[name])
    text = (tmp_path / "c" / "results.md").read_text()
    table = text.split("What noisy validation chose")[1]
    line = f"| dal | symmetric-0.4 | {chosen.replace(',', ' ')} |"
    assert f"{line} {accuracy[chosen]:.3f} |" in table
    assert (tmp_path / "c" / "sensitivity.png").exists()
    # The headline has one line a loss.
    headline = text.split("##")[1]
    assert len(re.findall(r"^\| dal \|", headline, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--losses=ce,gcee",), "did you mean 'gce'"),
        (("--sweep=loss.q_edn:1,2",), "did you mean 'loss.q_end'"),
        (("--sweep=loss.q:0.5",), "changes nothing for ce, dal"),
        (("--sweep=presets",), "the configuration names: q"),
        (("--select=validation",), "--select without --sweep"),
        (("--select=validation", "--sweep=q"), "validation_fraction=0.1"),
        (("--engine=dask",), "engine dask without --scheduler"),
        (("--scheduler=tcp://here:1",), "without --engine=dask"),
        (("--noises=symmetric",), "expected KIND:RATE"),
        (("--noises=none:0.2",), "noise 'none:0.2': expected KIND:RATE"),
        (("--losses=",), "unknown loss ''"),
        (("--seeds=0",), "--seeds=0: expected a positive integer"),
        (("--sweep=model.hidden:8",), "expected tuples of numbers; write one as (64,)"),
        (("--config.loss.name=gce",), "no effect in a comparison: expected --losses"),
        (("--config.noise.rate", "0.2"), "--config.noise.rate has no effect"),
        (("--workdir=",), "--workdir=: it is empty"),
        (("--noises=file:no/such.npy",), "such.npy"),
        (("--config.optimizer.name=sdg",), "did you mean 'sgd'"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(
    compare, tmp_path, arguments, line
):
    outcome = compare(tmp_path / "c", *arguments)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert line in outcome.err
    assert not (tmp_path / "c").exists()


def test_a_directory_of_another_comparison_is_refused(compare, tmp_path):
    study = Study(tmp_path / "c")
    study.begin(TrainConfig())
    before = study.mark.read_bytes()
    outcome = compare(study.path)
    assert outcome.status == 2
    assert "num_epochs was 60, now 2" in outcome.err
    assert "model.name was 'cnn', now 'mlp'" in outcome.err
    assert study.mark.read_bytes() == before


def test_what_a_comparison_crosses_makes_no_other_comparison(tmp_path):
    study, other = Study(tmp_path / "c"), TrainConfig(seed=3)
    study.begin(TrainConfig())
    other.loss.name, other.noise.rate = "ce", 0.8
    study.check(other)


def test_a_directory_with_other_files_is_refused(compare, tmp_path):
    (tmp_path / "thesis.tex").touch()
    outcome = compare(tmp_path)
    assert outcome.status == 2
    assert "thesis.tex" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_claimed_by_one_process_at_a_time(tmp_path):
    study = Study(tmp_path / "c")
    with study.claimed("a/b/seed0", 0.0) as mine:
        assert mine
        with study.claimed("a/b/seed0", 0.0) as too:
            assert not too
        with study.claimed("a/b/seed1", 0.0) as other:
            assert other
    with study.claimed("a/b/seed0", 0.0) as again:
        assert again


def test_a_run_that_failed_by_chance_is_tried_again(tmp_path):
    study = Study(tmp_path / "c")
    run = configure(TrainConfig(), "ce", parse_noise("symmetric:0.4"), 0)
    assert study.row(run) is None
    study.note_failure(run.name, "no memory", again=True)
    assert not study.finished(run.name)
    row = study.row(run)
    assert row is not None
    assert row["error"] == "no memory"
    study.forget_failure(run.name)
    assert study.row(run) is None
    study.note_failure(run.name, "not finite", again=False)
    assert study.finished(run.name)


def test_a_summary_that_was_torn_by_a_crash_is_no_result(tmp_path):
    study = Study(tmp_path / "c")
    run = configure(TrainConfig(), "ce", parse_noise("symmetric:0.4"), 0)
    study.workdir(run.name).mkdir(parents=True)
    (study.workdir(run.name) / "summary.json").write_text('{"test_accuracy_last": 0.')
    assert study.row(run) is None
    assert not study.finished(run.name)
    (study.workdir(run.name) / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    assert study.curve(run) == [{"epoch": 1}]
    study.mark.write_text('{"config": {"num_ep')
    with pytest.raises(InputError, match=r"comparison\.json is damaged"):
        study.check(TrainConfig())


def test_a_scheduler_that_does_not_answer_is_one_line(compare, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("dal_jax.comparing.engine_dask._PATIENCE", 0.2)
    outcome = compare(tmp_path / "c", "--engine=dask", "--scheduler=tcp://127.0.0.1:9")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in outcome.err
    assert not (tmp_path / "c").exists()


class Screen:
    """A terminal that keeps what was written."""

    def __init__(self, is_terminal):
        self.text, self._is_terminal = "", is_terminal

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def progress_of(screen):
    noise = parse_noise("symmetric:0.4")
    runs = [configure(TrainConfig(), "ce", noise, seed) for seed in range(3)]
    row = {"method": "ce", "noise": "symmetric-0.4", "seed": 0, "error": ""}
    row["test_accuracy_last"] = 0.5
    return Progress(runs, [row], screen), row


def test_a_terminal_shows_a_table_that_is_written_again():
    screen = Screen(True)
    progress, row = progress_of(screen)
    progress.show()
    assert screen.text.splitlines()[1:] == ["ce  0.500 1/3    ", "1 of 3 runs"]
    screen.text = ""
    progress.add(row | {"seed": 1, "test_accuracy_last": 0.7})
    assert screen.text.startswith("\x1b[3F\x1b[J")
    assert "ce  0.600 2/3" in screen.text
    assert "2 of 3 runs, about 0 s left" in screen.text


def test_elsewhere_it_is_a_line_a_run():
    screen = Screen(False)
    progress, row = progress_of(screen)
    progress.show()
    assert screen.text == ""
    progress.add(row | {"seed": 1, "error": "not finite", "test_accuracy_last": None})
    assert screen.text.startswith("symmetric-0.4, ce, seed 1: not finite (2 of 3 runs")
    assert "1 failed" in screen.text
