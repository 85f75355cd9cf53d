"""Tables of a comparison, in Markdown and in LaTeX."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from dal_jax.analysis.comparison import (
    LEVEL,
    TESTS,
    Cell,
    Comparison,
    Estimate,
    least_p_value,
)
from dal_jax.analysis.selection import Choice

MARK = "†"


def markdown_scores(found: Comparison) -> str:
    """Returns a table of methods by conditions, with the average rank at the end."""
    lines = []
    for name in found.methods:
        cells = [found.cells.get((name, c)) for c in found.conditions]
        lines.append([name, *(_markdown_cell(cell) for cell in cells)])
        if found.ranks:
            lines[-1].append(_rank(found.ranks[name]))
    head = ["", *found.conditions, *(["average rank"] if found.ranks else [])]
    return markdown_table(head, lines)


def latex_scores(found: Comparison, caption: str) -> str:
    """Returns the same as a LaTeX table, which needs the package booktabs."""
    head = ["", *found.conditions, *(["average rank"] if found.ranks else [])]
    lines = [" & ".join(map(_escaped, head)) + r" \\"]
    for name in found.methods:
        cells = [found.cells.get((name, c)) for c in found.conditions]
        line = [_escaped(name), *(_latex_cell(cell) for cell in cells)]
        line += [_rank(found.ranks[name])] if found.ranks else []
        lines.append(" & ".join(line) + r" \\")
    rows = "\n".join(lines[1:])
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escaped(caption)}}}\n"
        f"  \\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}\n\\toprule\n"
        f"{lines[0]}\n\\midrule\n{rows}\n\\bottomrule\n"
        "  \\end{tabular}\n\\end{table}\n"
    )


def markdown_choices(choices: Sequence[Choice]) -> str:
    """Returns a table of what validation chose, and what that costs."""
    head = [
        "",
        "noise",
        "chosen",
        "noisy validation accuracy",
        "test accuracy",
        "best on test, in hindsight",
        "its test accuracy",
        "cost of the choice",
    ]
    lines = [
        [
            choice.method,
            choice.condition,
            str(choice.chosen),
            f"{choice.by:.3f}",
            spread(choice.score),
            str(choice.best),
            f"{choice.best_score:.3f}",
            interval(choice.cost),
        ]
        for choice in choices
    ]
    return markdown_table(head, lines)


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table.

    Example:
      >>> print(markdown_table(["", "a"], [["ce", "1"]]))
      |  | a |
      |---|---|
      | ce | 1 |
    """
    text = [f"| {' | '.join(line)} |" for line in [head, *lines]]
    return "\n".join([text[0], "|---" * len(head) + "|", *text[1:]])


def how_to_read(found: Comparison) -> str:
    """Returns what a table's marks mean, which test made them, and what it can tell."""
    pairs = [cell.pairs for cell in found.cells.values() if cell.pairs > 1]
    text = (
        "Mean ± sample standard deviation over the seeds, with the 95 % bootstrap "
        "interval of the mean in brackets. "
    )
    if len(found.methods) == 1:
        return text.strip()
    text += "Bold: the highest mean under this noise. "
    if not pairs:
        return text + f"{MARK}: not distinguishable from it, as nothing is by one seed."
    least, most = min(pairs), max(pairs)
    count = f"{least}" if least == most else f"{least} to {most}"
    text += (
        f"{MARK}: not distinguishable from it by a {TESTS[found.test]} over {count} "
        f"seeds (p at least {LEVEL:g} after Holm's correction for this noise's "
        f"comparisons). "
    )
    smallest = least_p_value(most)
    if smallest >= LEVEL:
        text += (
            f"So few seeds can tell little: {most} pairs cannot reach {LEVEL:g} in an "
            f"exact Wilcoxon test, which assumes less (its least p is {smallest:g}), "
            "and bootstrap intervals of so few values are too short. "
        )
    if found.ranks:
        text += (
            "Average rank: 1 is the best; the mean over the noises, with its interval "
            "over the seeds. A run that failed ranks last."
        )
    return text.strip()


def spread(estimate: Estimate) -> str:
    """Returns a mean with its standard deviation."""
    text = f"{estimate.mean:.3f}"
    return text if math.isnan(estimate.sd) else f"{text} ± {estimate.sd:.3f}"


def interval(estimate: Estimate, form: str = ".3f") -> str:
    """Returns a mean with its interval.

    Example:
      >>> interval(Estimate(0.5, 0.1, 0.4, 0.6, 5))
      '0.500 [0.400, 0.600]'
    """
    text = f"{estimate.mean:{form}}"
    if math.isnan(estimate.low):
        return text
    return f"{text} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _rank(estimate: Estimate) -> str:
    return interval(estimate, ".1f")


def _markdown_cell(cell: Cell | None) -> str:
    return _cell(cell, lambda text: f"**{text}**", MARK)


def _latex_cell(cell: Cell | None) -> str:
    text = _cell(cell, lambda text: f"\\textbf{{{text}}}", "$^\\dagger$")
    return text.replace("±", "$\\pm$").replace("–", "--")


def _cell(cell: Cell | None, bold: Callable[[str], str], mark: str) -> str:
    if cell is None:
        return "–"
    failed = f" ({cell.failed} failed)" if cell.failed else ""
    of = cell.estimate
    if not of.count:
        return f"–{failed}"
    text = spread(of)
    text = bold(text) if cell.best else text + (mark if cell.tied else "")
    if not math.isnan(of.low):
        text += f" [{of.low:.3f}, {of.high:.3f}]"
    return text + failed


_SPECIAL: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    MARK: r"$^\dagger$",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def _escaped(text: str) -> str:
    """Returns text as LaTeX shows it."""
    pattern = "|".join(map(re.escape, _SPECIAL))
    return re.sub(pattern, lambda match: _SPECIAL[match[0]], text)
