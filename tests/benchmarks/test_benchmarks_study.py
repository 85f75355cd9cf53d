"""The study: what it runs, what it skips, what its tables say."""

from pathlib import Path

import pytest

from dal_jax.config import TrainConfig
from dal_jax.errors import InputError


@pytest.fixture
def study(monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    import study

    return study


def run(noise, loss, seed, last):
    return {
        "noise": noise,
        "loss": loss,
        "seed": seed,
        "test_accuracy_last": last,
        "realised_noise_rate": 0.36,
        "elapsed_seconds": 2.0,
    }


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("symmetric:0.4", "symmetric-0.4"),
        ("pair_flip:0.25", "pair_flip-0.25"),
        ("none", "none-0"),
        ("file:labels/symmetric/cifar10_40.npy", "symmetric-cifar10_40"),
    ],
)
def test_noise_has_a_label_of_its_own(study, text, label):
    assert study.parse_noise(text).label == label


def test_noise_with_a_rate_that_is_no_number_is_refused(study):
    with pytest.raises(InputError, match="expected KIND:RATE"):
        study.parse_noise("symmetric:lots")


def test_configurations_share_nothing_with_their_base(study):
    base = TrainConfig()
    config = study.configure(base, "gce", study.parse_noise("asymmetric:0.2"), 7)
    assert (config.loss.name, config.seed) == ("gce", 7)
    assert (config.noise.kind, config.noise.rate) == ("asymmetric", 0.2)
    assert base == TrainConfig()


def test_losses_that_assume_a_noise_rate_are_told_it(study):
    base, noise = TrainConfig(), study.parse_noise("symmetric:0.2")
    assert study.configure(base, "forward_correction", noise, 0).loss.noise_rate == 0.2
    base.loss.noise_rate = 0.3
    assert study.configure(base, "forward_correction", noise, 0).loss.noise_rate == 0.3
    assert study.configure(base, "ce", noise, 0).loss.noise_rate is None


def test_a_preset_counts_for_the_losses_that_it_holds(study):
    base, noise = TrainConfig(), study.parse_noise("symmetric:0.2")
    base.loss.preset = "digits"
    assert study.configure(base, "nnce", noise, 0).loss.preset == "digits"
    assert study.configure(base, "gce", noise, 0).loss.preset is None
    base.loss.preset = "digit"
    with pytest.raises(InputError, match="did you mean 'digits'"):
        study.configure(base, "gce", noise, 0)


def test_a_study_is_refused_as_a_whole_before_its_first_run(study, tmp_path):
    arguments = (["ce", "forward_correction"], [study.parse_noise("file:labels.npy")])
    with pytest.raises(InputError, match="noise_rate"):
        study.run_study(TrainConfig(), *arguments, [0], tmp_path / "study", print)
    assert not (tmp_path / "study").exists()


def test_matrix_has_mean_and_sample_deviation(study):
    runs = [run("a", "ce", 0, 0.5), run("a", "ce", 1, 0.7), run("a", "dal", 0, 0.9)]
    lines = study.format_matrix(runs).splitlines()
    assert lines[0] == "| noise | ce | dal |"
    assert lines[2] == "| a | 0.600 ± 0.141 | 0.900 |"


def test_runs_that_stopped_being_finite_are_counted_and_not_averaged(study):
    failed = {"noise": "a", "loss": "ce", "seed": 1, "error": "not finite at step 3"}
    details = study.format_details([run("a", "ce", 0, 0.5), failed])
    assert "0.500 (1 not finite)" in details


@pytest.mark.slow
def test_finished_runs_are_not_run_again(study, tmp_path):
    base = TrainConfig(num_epochs=1)
    base.dataset.train_size, base.dataset.test_size = 128, 50
    base.model.name = "mlp"
    said = []
    arguments = (base, ["dal"], [study.parse_noise("symmetric:0.4")])
    first = study.run_study(*arguments, [0], tmp_path, said.append)
    assert said[0].startswith("1/1 symmetric-0.4 dal seed 0: 0.")
    written = tmp_path / "symmetric-0.4" / "dal" / "seed0" / "metrics.jsonl"
    before = written.stat().st_mtime_ns
    more = study.run_study(*arguments, [0, 1], tmp_path, said.append)
    assert more[:1] == first
    assert [r["seed"] for r in more] == [0, 1]
    assert written.stat().st_mtime_ns == before
