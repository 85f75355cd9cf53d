"""From the runs of a comparison to the arrays of its pictures."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dal_jax.analysis.comparison import estimate
from dal_jax.analysis.selection import Choice
from dal_jax.comparing.plan import Run
from dal_jax.comparing.study import Study
from dal_jax.reporting import comparison_figures as figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more methods than that, curves and points hide each other.
_MOST_METHODS = 12

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Finished:
    """A run that has finished, its line of the table, and what a legend calls it."""

    run: Run
    row: Row
    label: str


def pictures(
    study: Study,
    runs: Sequence[Run],
    rows: Sequence[Row],
    shown: Sequence[Row],
    swept: Sequence[str],
    choices: Sequence[Choice],
) -> Iterator[tuple[str, "Figure"]]:
    """Yields names and figures, of what there is something to draw of.

    Args:
      study: the comparison's directory.
      runs: of the comparison.
      rows: the lines of those that have ended.
      shown: the lines that the tables show.
      swept: the swept fields.
      choices: what validation chose.
    """
    run_of = {_key(r.method, r.noise.label, r.seed): r for r in runs}

    def finished(lines: Sequence[Row]) -> list[_Finished]:
        return [
            _Finished(
                run_of[_key(row["method"], row["noise"], row["seed"])],
                row,
                row["loss"] if choices else row["method"],
            )
            for row in lines
            if not row["error"]
        ]

    of_shown = finished(shown)
    if 0 < len({one.label for one in of_shown}) <= _MOST_METHODS:
        if curves := _curves(study, of_shown):
            yield "accuracy_over_epochs", figures.accuracy_over_epochs(curves)
        if by_rate := _by_rate(of_shown):
            yield "accuracy_by_rate", figures.accuracy_by_rate(by_rate)
        if outcomes := _outcomes(of_shown):
            yield "memorized_corrected", figures.memorized_against_corrected(outcomes)
    if len(swept) == 2 and (maps := _maps(finished(rows), swept, choices)):
        yield "sensitivity", figures.sensitivity(maps)


def _key(method: str, noise: str, seed: int) -> tuple[str, str, int]:
    return method, noise, seed


def _curves(study: Study, runs: Sequence[_Finished]) -> dict[str, figures.Curves]:
    """Test accuracy over epochs by noise and method; runs of other epochs left out."""
    found: dict[str, dict[str, dict[tuple[int, ...], list[Any]]]] = {}
    for one in runs:
        entries = [
            e for e in study.curve(one.run) if e.get("test_accuracy") is not None
        ]
        epochs = tuple(entry["epoch"] for entry in entries)
        of_noise = found.setdefault(one.row["noise"], {})
        if epochs:
            of_method = of_noise.setdefault(one.label, defaultdict(list))
            of_method[epochs].append([entry["test_accuracy"] for entry in entries])
    panels = {
        noise: {
            method: (np.array(epochs), np.array(of[epochs]))
            for method, of in methods.items()
            if (epochs := max(of, key=lambda e: len(of[e])))
        }
        for noise, methods in found.items()
    }
    return {noise: curves for noise, curves in panels.items() if curves}


def _by_rate(runs: Sequence[_Finished]) -> dict[str, dict[str, list[Any]]]:
    """Accuracy by kind of noise, method and rate, of kinds that have several rates."""
    scores: dict[str, dict[str, dict[float, list[float]]]] = {}
    for one in runs:
        noise, score = one.run.noise, one.row["test_accuracy_last"]
        if noise.path is None and noise.kind != "none" and score is not None:
            of_kind = scores.setdefault(noise.kind, {})
            of_method = of_kind.setdefault(one.label, {})
            of_method.setdefault(noise.rate or 0.0, []).append(score)
    return {
        kind: {
            method: [(rate, estimate(of[rate])) for rate in sorted(of)]
            for method, of in methods.items()
        }
        for kind, methods in scores.items()
        if len(set().union(*methods.values())) > 1
    }


def _outcomes(runs: Sequence[_Finished]) -> dict[str, dict[str, Any]]:
    """Shares of the wrong labels that were memorized and corrected, by noise."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in runs:
        shares = one.row["memorized"], one.row["corrected"]
        if None not in shares:
            of_noise = found.setdefault(one.row["noise"], {})
            of_noise.setdefault(one.label, []).append(shares)
    return {
        noise: {method: tuple(np.array(of).T) for method, of in methods.items()}
        for noise, methods in found.items()
    }


def _maps(
    runs: Sequence[_Finished], swept: Sequence[str], choices: Sequence[Choice]
) -> list[figures.Map]:
    """Mean accuracy over two swept fields, by loss and noise."""
    chosen = {(c.method, c.condition): c.chosen for c in choices}
    groups: dict[tuple[str, str], list[_Finished]] = defaultdict(list)
    for one in runs:
        score = one.row["test_accuracy_last"]
        if score is not None and all(field in one.run.setting for field in swept):
            groups[one.run.loss, one.row["noise"]].append(one)
    maps = []
    for (loss, noise), members in groups.items():
        axes = [
            list(dict.fromkeys(one.run.setting[field] for one in members))
            for field in swept
        ]
        cells: dict[tuple[int, int], list[float]] = defaultdict(list)
        ring = None
        for one in members:
            x, y = (
                values.index(one.run.setting[field])
                for field, values in zip(swept, axes, strict=True)
            )
            cells[y, x].append(one.row["test_accuracy_last"])
            if one.run.method == chosen.get((loss, noise)):
                ring = x, y
        scores = np.full((len(axes[1]), len(axes[0])), np.nan)
        for place, values in cells.items():
            scores[place] = np.mean(values)
        names = [field.removeprefix("loss.") for field in swept]
        maps.append(
            figures.Map(
                f"{loss}, {noise}",
                (names[0], names[1]),
                (axes[0], axes[1]),
                scores,
                ring,
            )
        )
    return maps
