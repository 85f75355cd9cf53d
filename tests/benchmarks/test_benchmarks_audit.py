"""The comparison of detectors: what it measures, what it skips, what its table says."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError


@pytest.fixture
def scripts(monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    import audit
    import detectors
    import relabel

    return audit, detectors, relabel


@pytest.fixture
def config():
    config = TrainConfig(num_epochs=1, batch_size=64)
    config.dataset.train_size, config.dataset.test_size = 128, 20
    config.model.name = "mlp"
    return config


def test_margins_are_summed_by_quarter(scripts):
    _, detectors, _ = scripts
    loss = detectors.remember_margins(losses.make_stateful("ce", num_examples=3), 3, 8)
    memory = loss.init()
    logits = jnp.array([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]])
    labels, index = jnp.array([0, 1]), jnp.array([2, 0])
    for step in (0, 1, 2, 7):
        values, memory = loss.apply(logits, labels, step, memory, index)
    expected = losses.make("ce")(logits, labels, 0)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    seen = np.zeros((4, 3, 2))
    for quarter, times in ((0, 2), (1, 1), (3, 1)):
        seen[quarter, 2] = times * 2, times
        seen[quarter, 0] = times * -3, times
    np.testing.assert_allclose(memory[0], seen)


def test_folds_hold_every_example_out_once(scripts):
    _, detectors, _ = scripts
    folds = detectors.folds(23, seed=1)
    held_out = np.concatenate([held for _, held in folds])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(23))
    for kept, held in folds:
        assert not set(kept) & set(held)
        assert len(kept) + len(held) == 23


def test_classes_thin_out_to_the_imbalance(scripts):
    audit, _, _ = scripts
    labels = np.arange(1000) % 5
    kept = audit.thin_out(labels, 5, 20.0, seed=0)
    sizes = np.sort(np.bincount(labels[kept]))
    np.testing.assert_array_equal(sizes, [10, 21, 45, 95, 200])
    again = audit.thin_out(labels, 5, 20.0, seed=1)
    assert np.argmin(np.bincount(labels[kept])) != np.argmin(np.bincount(labels[again]))


def test_a_noise_is_a_kind_and_a_rate_or_a_file(scripts):
    audit, _, _ = scripts
    config = audit.configure(TrainConfig(), "asymmetric:0.2", 3)
    assert (config.noise.kind, config.noise.rate) == ("asymmetric", 0.2)
    assert config.seed == 3
    config = audit.configure(TrainConfig(), "file:labels/a.npy", 0)
    assert (config.noise.kind, config.noise.path) == ("file", "labels/a.npy")
    with pytest.raises(InputError, match="expected KIND:RATE"):
        audit.configure(TrainConfig(), "symmetric:lots", 0)


def test_measured_once_and_gone_on_with(scripts, config, tmp_path):
    audit, _, _ = scripts
    saved = []
    arguments = (config, ["symmetric:0.4"], [0], ["dal", "vote"], [1], 1.0)
    rows = audit.run_all(*arguments, [], lambda rows: saved.append(list(rows)))
    assert [row["method"] for row in rows] == ["dal_jax", "vote of 15 neighbours"]
    assert len(saved) == 2
    vote = rows[1]
    assert vote["auroc"] > 0.9
    assert vote["examples"] == 128
    assert 20 < vote["wrong"] < 70
    assert json.loads(json.dumps(rows)) == rows
    again = audit.run_all(*arguments, rows, lambda rows: pytest.fail("measured again"))
    assert again == rows
    more = (config, ["none"], [0], ["vote"], [1], 1.0)
    (clean,) = audit.run_all(*more, rows, lambda rows: None)[2:]
    assert (clean["wrong"], clean["auroc"], clean["recall"]) == (0, None, None)


def test_figures_and_table_by_hand(scripts, config):
    audit, detectors, _ = scripts
    prepared = audit.prepare(audit.configure(config, "symmetric:0.4", 0), 1.0)
    record = prepared.record
    wrong = record.noisy_labels != record.clean_labels
    flagged = wrong.copy()
    flagged[np.flatnonzero(wrong)[0]] = False
    flagged[np.flatnonzero(~wrong)[:3]] = True
    row = audit.measure(detectors.Found(wrong + 0.0, flagged), prepared, "a", 2.0)
    number = wrong.sum()
    assert row["auroc"] == 1
    assert row["flagged"] == number + 2
    assert row["precision"] == pytest.approx((number - 1) / (number + 2))
    assert row["recall"] == pytest.approx((number - 1) / number)
    rows = [row | {"noise": "file:x/y/z.npy", "by": "a", "seed": s} for s in (0, 1)]
    rows[1]["auroc"] = 0.9
    lines = audit.table(rows, 1.0).splitlines()
    assert lines[0].startswith("### y/z.npy: ")
    assert "| a | 0.9500 | 0.0500 ± 0.0707 |" in lines[-1]
    assert f"| {200 / 128:+.1f} | {200 / 128:+.1f} | 2 | 2 |" in lines[-1]


def test_cleanlab_is_named_where_it_is_missing(scripts, config, monkeypatch):
    audit, detectors, _ = scripts
    monkeypatch.setattr(detectors.importlib.util, "find_spec", lambda name: None)
    prepared = audit.prepare(config, 1.0)
    with pytest.raises(InputError, match="pip install cleanlab"):
        detectors.confident_learning(config, prepared, 1)


def test_issues_are_relabelled_or_left_out(scripts, config):
    audit, _, relabel = scripts
    from dal_jax.analysis import label_issues

    prepared = audit.prepare(audit.configure(config, "symmetric:0.4", 0), 1.0)
    clean = prepared.record.clean_labels
    known = 0.9 * np.eye(10)[clean] + 0.01
    issues = label_issues(prepared.train.labels, known)
    assert issues.num_issues > 20
    relabelled = relabel.act(prepared, issues, "relabel")
    assert relabelled.record.realised_rate < 0.05
    np.testing.assert_array_equal(
        relabelled.record.noisy_labels, relabelled.train.labels
    )
    removed = relabel.act(prepared, issues, "remove")
    assert len(removed.train) == len(removed.record.index) == 128 - issues.num_issues
    np.testing.assert_array_equal(removed.record.noisy_labels, removed.train.labels)
