"""Trains, audits, relabels and trains again, and prints the accuracies.

    python benchmarks/relabel.py --config=digits
        [--noises=symmetric:0.4,asymmetric:0.4] [--seeds=0,1,2] [--losses=dal,ce]
        [--actions=relabel,remove] [--out=PREFIX] [--config.FIELD=VALUE ...]

The audit is that of the configuration's own run. ``relabel`` gives its issues the
suggested class, ``remove`` leaves them out; then every loss trains anew, with the same
seed. Accuracies are of the last epoch on the clean test set, mean ± sample standard
deviation over the seeds.
"""

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import machine
import numpy as np
from absl import flags
from audit import configure
from cells import spread

from dal_jax import cli, losses, recipe, training
from dal_jax.analysis import LabelIssues
from dal_jax.config import LossConfig, TrainConfig
from dal_jax.errors import unknown_name
from dal_jax.reporting.comparison_tables import markdown_table

ACTIONS = ("relabel", "remove")
Row = dict[str, Any]


def train(
    config: TrainConfig, loss: str, prepared: recipe.Prepared
) -> training.FitResult:
    config = copy.deepcopy(config)
    if loss != config.loss.name:
        config.loss = LossConfig(loss)
    config.train_eval_size, config.eval_every = 0, config.num_epochs
    return training.fit(**recipe.ingredients(config, prepared))


def act(prepared: recipe.Prepared, issues: LabelIssues, action: str) -> recipe.Prepared:
    """Returns the data with what the audit says done to their labels."""
    train, record = prepared.train, prepared.record
    if action == "remove":
        kept = np.flatnonzero(~issues.is_issue)
        return dataclasses.replace(
            prepared, train=train.take(kept), record=record.take(kept)
        )
    labels = np.where(issues.is_issue, issues.suggested, train.labels)
    return dataclasses.replace(
        prepared,
        train=dataclasses.replace(train, labels=labels),
        record=dataclasses.replace(record, noisy_labels=labels).take(
            np.arange(len(labels))
        ),
    )


def measure(
    config: TrainConfig, names: list[str], actions: list[str]
) -> dict[str, dict[str, float]]:
    """Returns accuracies and the shares of wrong labels, by what was done."""
    prepared = recipe.prepare(config)
    own = train(config, config.loss.name, prepared)
    figures = {}
    for action in ("before", *actions):
        data = prepared
        if action != "before":
            data = act(prepared, own.label_issues(), action)
        figures[action] = {"wrong": data.record.realised_rate}
        for name in names:
            again = action != "before" or name != config.loss.name
            result = train(config, name, data) if again else own
            figures[action][name] = result.summary["test_accuracy_last"]
    return figures


def table(rows: list[Row], names: list[str]) -> str:
    columns = ["noise", "labels", "wrong", *names, "seeds"]
    lines = []
    for noise, action in dict.fromkeys((row["noise"], row["labels"]) for row in rows):
        chosen = [r for r in rows if (r["noise"], r["labels"]) == (noise, action)]
        wrong = 100 * np.mean([row["wrong"] for row in chosen])
        figures = [spread([row[name] for row in chosen]) for name in names]
        lines.append([noise, action, f"{wrong:.1f} %", *figures, str(len(chosen))])
    return markdown_table(columns, lines)


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("noises", "symmetric:0.4,asymmetric:0.4", "KIND:RATE or file:PATH."),
        ("seeds", "0,1,2", "Numbers separated by commas."),
        ("losses", "dal,ce", "What trains before and after."),
        ("actions", "relabel,remove", "What becomes of the issues."),
        ("out", None, "OUT.json and OUT.md are written."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)


def _main(config: TrainConfig, values: flags.FlagValues) -> None:
    cli.use_compilation_cache()
    names, actions = values.losses.split(","), values.actions.split(",")
    for kind, given, known in (
        ("loss", names, losses.names()),
        ("action", actions, ACTIONS),
    ):
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)
    rows = []
    for seed in map(int, values.seeds.split(",")):
        for noise in values.noises.split(","):
            figures = measure(configure(config, noise, seed), names, actions)
            for action, of_action in figures.items():
                rows.append({"noise": noise, "seed": seed, "labels": action})
                rows[-1] |= of_action
                print(rows[-1], file=sys.stderr, flush=True)
    description = machine.describe()
    text = f"{table(rows, names)}\n\n{machine.markdown(description)}"
    print(text)
    if values.out:
        path = Path(f"{values.out}.json")
        path.write_text(json.dumps({"machine": description, "rows": rows}, indent=1))
        path.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    cli.quiet()
    cli.run_command(_main, _define_flags, description=__doc__)
