"""What a comparison writes once its runs have ended: tables and pictures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import dal_jax
from dal_jax.analysis import comparison as statistics
from dal_jax.analysis import selection
from dal_jax.command_line import quoted
from dal_jax.comparing.pictures import pictures
from dal_jax.comparing.plan import Run
from dal_jax.comparing.study import Study, table
from dal_jax.reporting import comparison_tables as tables
from dal_jax.reporting.comparison_figures import save

SCORES = {
    "test_accuracy_last": "Test accuracy at the last epoch",
    "test_accuracy_mean_last_10": "Test accuracy, mean of the last ten evaluations",
}
Row = Mapping[str, Any]


def write_results(
    study: Study,
    runs: Sequence[Run],
    swept: Sequence[str],
    *,
    select: bool = False,
    test: statistics.Test = "t",
    command: Sequence[str] = (),
) -> str:
    """Writes ``results.csv``, ``.md``, ``.tex`` and the pictures; returns the tables.

    Args:
      study: the comparison's directory.
      runs: of the comparison; those that have not ended are left out.
      swept: the swept fields.
      select: whether validation chooses among the settings of a loss.
      test: the paired test.
      command: the words that made it, which the tables then give.
    """
    rows = study.rows(runs)
    study.write("results.csv", table(rows, swept))
    choices = selection.choose(rows) if select else []
    shown: Any = selection.chosen_rows(rows, choices) if select else rows
    method = "loss" if select else "method"
    found = {
        title: statistics.compare(shown, score, method=method, test=test)
        for score, title in SCORES.items()
        if any(row[score] is not None for row in shown)
    }
    text = _markdown(rows, shown, found, choices, method)
    if command:
        text += f"\n{_made(rows, command)}\n"
    study.write("results.md", text)
    latex = [
        tables.latex_scores(of, f"{title}. {tables.how_to_read(of)}")
        for title, of in found.items()
    ]
    study.write("results.tex", "\n".join(["% Needs \\usepackage{booktabs}.", *latex]))
    for name, figure in pictures(study, runs, rows, shown, swept, choices):
        for ending, content in save(figure).items():
            study.write(name + ending, content)
    return text


def _markdown(
    rows: Sequence[Row],
    shown: Sequence[Row],
    found: Mapping[str, statistics.Comparison],
    choices: Sequence[selection.Choice],
    method: str,
) -> str:
    parts = ["# Comparison"]
    for title, of in found.items():
        parts += [f"## {title}", tables.markdown_scores(of)]
    parts += [tables.how_to_read(of) for of in list(found.values())[:1]]
    if choices:
        parts += [
            "## What noisy validation chose",
            tables.markdown_choices(choices),
            "The setting with the highest mean accuracy on held-out examples with "
            "noisy labels is the chosen one. Cost: the mean difference in test "
            "accuracy to the best setting, over the seeds, with its 95 % bootstrap "
            "interval.",
        ]
    parts += ["## What became of the wrong labels", _details(shown, method)]
    failed = [row for row in rows if row["error"]]
    if failed:
        lines = [
            [row["method"], row["noise"], str(row["seed"]), row["error"]]
            for row in failed
        ]
        table = tables.markdown_table(["", "noise", "seed", "why"], lines)
        parts += ["## Runs that failed", table]
    return "\n\n".join(parts) + "\n"


def _made(rows: Sequence[Row], command: Sequence[str]) -> str:
    packages = [f"{name} {metadata.version(name)}" for name in ("jax", "flax", "optax")]
    made = ", ".join([f"dal_jax {dal_jax.__version__}", *packages])
    devices = sorted({row["device"] for row in rows if row["device"]})
    where = f", each run on {' or '.join(devices)}" if devices else ""
    return f"## How it was made\n\n{made}{where}:\n\n```\n{quoted([*command])}\n```"


def _details(rows: Sequence[Row], method: str) -> str:
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["noise"], row[method]].append(row)
    columns = ("realised_noise_rate", "memorized", "corrected")
    lines = []
    for (noise, name), members in groups.items():
        of = [
            statistics.estimate(r[column] for r in members if r[column] is not None)
            for column in columns
        ]
        cells = [tables.spread(one) if one.count else "–" for one in of]
        lines.append([noise, name, *cells, str(len(members))])
    head = ["noise", "", "labels wrong", "memorized", "corrected", "seeds"]
    return tables.markdown_table(head, lines)
