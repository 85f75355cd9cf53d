"""What a comparison trains, and what it refuses before it trains anything."""

import runpy
from pathlib import Path

import pytest

from dal_jax import losses
from dal_jax.comparing.plan import check_data, configure, make_plan, parse_noise
from dal_jax.comparing.sweeps import named_sweeps, parse_sweeps
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
SYMMETRIC = parse_noise("symmetric:0.2")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("symmetric:0.4", "symmetric-0.4"),
        ("pair_flip:0.25", "pair_flip-0.25"),
        ("none", "none"),
        ("file:labels/symmetric/cifar10_40.npy", "symmetric-cifar10_40"),
        ("file:mine.npy", "mine"),
    ],
)
def test_noise_has_a_label_of_its_own(text, label):
    assert parse_noise(text).label == label


@pytest.mark.parametrize("text", ["symmetric:lots", "symmetric", "file:", ""])
def test_noise_that_says_no_rate_and_no_file_is_refused(text):
    with pytest.raises(InputError, match="expected KIND:RATE"):
        parse_noise(text)


def test_configurations_share_nothing_with_their_base():
    base = TrainConfig()
    config = configure(base, "gce", parse_noise("asymmetric:0.2"), 7).config
    assert (config.loss.name, config.seed) == ("gce", 7)
    assert (config.noise.kind, config.noise.rate) == ("asymmetric", 0.2)
    assert base == TrainConfig()


def test_losses_that_assume_a_noise_rate_are_told_it():
    base = TrainConfig()

    def rate(loss):
        return configure(base, loss, SYMMETRIC, 0).config.loss.noise_rate

    assert rate("forward_correction") == 0.2
    base.loss.noise_rate = 0.3
    assert rate("forward_correction") == 0.3
    assert rate("ce") is None


def test_a_preset_counts_for_the_losses_that_it_holds():
    base = TrainConfig()
    base.loss.preset = "digits"
    assert configure(base, "nnce", SYMMETRIC, 0).config.loss.preset == "digits"
    assert configure(base, "gce", SYMMETRIC, 0).config.loss.preset is None
    base.loss.preset = "digit"
    with pytest.raises(InputError, match="did you mean 'digits'"):
        configure(base, "gce", SYMMETRIC, 0)


def test_seeds_are_outermost():
    noises = [SYMMETRIC, parse_noise("symmetric:0.4")]
    runs = make_plan(TrainConfig(), ["ce", "dal"], noises, [0, 1])
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    assert len({run.name for run in runs}) == 8


def test_settings_are_crossed_and_a_loss_without_the_field_is_trained_once():
    sweeps = parse_sweeps(["loss.q_start:0.2,0.6", "loss.q_end:1.2,1.5,2"])
    runs = make_plan(TrainConfig(), ["ce", "dal"], [SYMMETRIC], [0], sweeps)
    assert [run.method for run in runs[:2]] == ["ce", "dal q_start=0.2 q_end=1.2"]
    assert len(runs) == 1 + 2 * 3
    last = runs[-1].config.loss
    assert (last.q_start, last.q_end) == (0.6, 2)
    assert runs[0].setting == {}


def test_any_field_is_swept_with_values_of_its_kind():
    texts = ["model.hidden:(8,),(16,4)", "optimizer.learning_rate:1,0.1"]
    texts += ["optimizer.nesterov:true,false", "optimizer.clip_norm:None,5"]
    sweeps = parse_sweeps(texts)
    assert sweeps[0].values == ((8,), (16, 4))
    assert sweeps[1].values == (1.0, 0.1)
    assert type(sweeps[1].values[0]) is float
    assert sweeps[2].values == (True, False)
    assert sweeps[3].values == (None, 5.0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("loss.q_edn:1,2", "did you mean 'loss.q_end'"),
        ("optimizer.learning_rat:1", "did you mean 'optimizer.learning_rate'"),
        ("num_epochs:1.5", "wrong kind: expected int"),
        ("optimizer.learning_rate:fast", "wrong kind: expected float"),
        ("model.hidden:8", "wrong kind"),
        ("loss.q:0.5,0.5", "each once"),
        ("loss.q:", "one or more values"),
        ("seed:1,2", "expected --seeds"),
        ("loss.name:ce,mae", "expected --losses"),
        ("noise.rate:0.1", "expected --noises"),
        ("presets", "the configuration names: q"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(text, line):
    with pytest.raises(InputError, match=line):
        parse_sweeps([text], {"q": ("loss.q:0.5,0.7",)})


def test_a_field_is_swept_once():
    with pytest.raises(InputError, match=r"loss\.q is swept twice"):
        parse_sweeps(["loss.q:0.5", "loss.q:0.7"])


@pytest.mark.parametrize(
    "sweep", ["loss.q:0.5,0.7", "loss.preset:digits,cifar10", "loss.tau:2"]
)
def test_a_sweep_that_changes_nothing_for_any_loss_is_refused(sweep):
    with pytest.raises(InputError, match="changes nothing for ce, dal"):
        make_plan(TrainConfig(), ["ce", "dal"], [SYMMETRIC], [0], parse_sweeps([sweep]))


def test_a_hyperparameter_that_no_loss_has_is_refused():
    base = TrainConfig()
    base.loss.q_end = 2.0
    runs = make_plan(base, ["ce", "dal"], [SYMMETRIC], [0])
    assert [run.config.loss.q_end for run in runs] == [None, 2.0]
    with pytest.raises(InputError, match=r"--config\.loss\.q_end with 2\.0 changes"):
        make_plan(base, ["ce", "gce"], [SYMMETRIC], [0])


@pytest.mark.parametrize(
    ("names", "noises", "line"),
    [
        (["ce", "gcee"], ["none"], "did you mean 'gce'"),
        (["ce", "ce"], ["none"], "loss 'ce' is given twice"),
        (["ce"], ["file:a/b.npy", "file:x/a/b.npy"], "noise 'a-b' is given twice"),
        (["forward_correction"], ["file:a.npy"], "a/forward_correction/seed0: .*rate"),
    ],
)
def test_a_comparison_is_refused_as_a_whole(names, noises, line):
    with pytest.raises(InputError, match=line):
        make_plan(TrainConfig(), names, [parse_noise(text) for text in noises], [0])


def test_every_noise_is_made_once_before_the_first_run():
    base = TrainConfig()
    base.dataset.train_size = 50
    noises = [SYMMETRIC, parse_noise("file:missing/labels.npy")]
    with pytest.raises(InputError, match=r"missing-labels/ce/seed0: .*labels\.npy"):
        check_data(make_plan(base, ["ce"], noises, [0]))
    wrong = make_plan(base, ["ce"], [SYMMETRIC, parse_noise("symmetrc:0.2")], [0])
    with pytest.raises(InputError, match="did you mean 'symmetric'"):
        check_data(wrong)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_sweeps_that_a_config_names_are_ones_that_can_run(path):
    base = runpy.run_path(str(path))["get_config"]()
    named = named_sweeps(path)
    for name in named:
        sweeps = parse_sweeps([name], named)
        assert make_plan(base, losses.names(), [SYMMETRIC], [0], sweeps)


def test_presets_are_a_sweep_of_the_losses_that_have_them():
    named = named_sweeps(CONFIGS[0].with_name("cifar10.py"))
    base = runpy.run_path(str(CONFIGS[0].with_name("cifar10.py")))["get_config"]()
    sweeps = parse_sweeps(["presets"], named)
    runs = make_plan(base, ["ce", "gce", "js"], [SYMMETRIC], [0], sweeps)
    assert [run.method for run in runs] == [
        "ce",
        "gce preset=cifar10",
        "gce preset=cifar100",
        "gce preset=webvision",
        "js preset=cifar100",
        "js preset=webvision",
    ]
