"""The audit of a finished run: its files, its page, and labels to train on again."""

import contextlib
import dataclasses
import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax import data
from dal_jax.analysis import LabelIssues, of_dynamics, rank_quality
from dal_jax.analysis.table import read_corrections, write_table
from dal_jax.command_line import quoted, train_command
from dal_jax.config import TrainConfig, config_of
from dal_jax.data.contents import contents_of
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.noise import NoiseRecord
from dal_jax.noise.files import LEFT_OUT
from dal_jax.recipe import apply_noise
from dal_jax.reporting.page import AuditPage, Example, Step, render
from dal_jax.training.workdir import Workdir

TABLE, FIGURES, PAGE = "label_issues.csv", "audit.json", "label_issues.html"
ACTIONS = ("relabel", "remove", "corrected")
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)
# Of every class the page shows so many issues, even if others are more suspicious.
_OF_EACH_CLASS = 3


@dataclasses.dataclass(frozen=True)
class Audited:
    """A finished run and its audit, in the order of ``noise.npz``.

    Attributes:
      issues: which labels are likely wrong.
      record: the labels that the run was trained on.
      class_names: one a class.
      names: bytes ``[N]``, the examples' paths; ``None`` where they have none.
      history: uint8 ``[N, T]``, the given label's probability in 255ths.
      config: what was trained; ``None`` for a run of objects.
      files: the run's directory.
    """

    issues: LabelIssues
    record: NoiseRecord
    class_names: Sequence[str]
    names: np.ndarray | None
    history: np.ndarray
    config: TrainConfig | None
    files: Workdir

    def quality(self) -> dict[str, float]:
        """Returns how well the audit finds wrong labels, where these are known."""
        clean = self.record.clean_labels
        if clean is None:
            return {}
        wrong = self.record.noisy_labels != clean
        found = rank_quality(-self.issues.rank, wrong, self.issues.num_issues)
        return {
            "auroc": found.auroc,
            "average_precision": found.average_precision,
            "precision_at_num_issues": found.precision,
            "recall_at_num_issues": found.recall,
        }


@contextlib.contextmanager
def audited(workdir: str | os.PathLike[str]) -> Iterator[Audited]:
    """Audits a finished run and holds its directory as long as the context lasts.

    Raises:
      InputError: there is no finished run, or it gathered nothing; or it is in use.
    """
    files = Workdir(workdir)
    if not (files.path / "config.json").is_file():
        raise InputError(
            f"workdir {files.path} holds no run: expected the directory that dal-jax "
            "train wrote; give another --workdir"
        )
    with files.locked():
        yield _audit(files)


def _audit(files: Workdir) -> Audited:
    if files.read_summary() is None:
        raise InputError(
            f"the run in {files.path} has not finished: expected a finished one; train "
            "it to its end first, the same command goes on"
        )
    path = files.path / "dynamics.npz"
    if not path.is_file():
        raise InputError(
            f"the run in {files.path} has no dynamics.npz, which an older version did "
            "not write: expected what was seen of every example; train it again in "
            "another --workdir"
        )
    record = NoiseRecord.load(files.noise)
    class_names = files.read_json("preprocessing.json")["class_names"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            issues = of_dynamics(record.noisy_labels, arrays, len(class_names))
            names = arrays.get("names")
            history = arrays["history"]
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): expected the file "
            "that the run wrote; restore it, or train again in another --workdir"
        ) from None
    # A run that was ended early has nothing in its last columns.
    seen = int(np.max(np.flatnonzero(history.any(axis=0)), initial=0)) + 1
    return Audited(
        issues=issues,
        record=record,
        class_names=class_names,
        names=names,
        history=history[:, :seen],
        config=config_of(files.read_json("config.json")),
        files=files,
    )


def write_files(
    audit: Audited, *, top: int = 100, say: Callable[[str], None] = lambda line: None
) -> None:
    """Writes the table, the figures and the page into the run's directory.

    A table that differs from what is written now is a person's work, or an earlier
    version's, and stays as it is.

    Args:
      audit: of the run.
      top: how many examples the page shows.
      say: told in single lines what a person would want to know.
    """
    files = audit.files
    files.mark.claim(adopt=True)
    table = io.BytesIO()
    write_table(table, audit.issues, audit.record.index, audit.class_names, audit.names)
    path = files.path / TABLE
    if not path.exists():
        files.write(TABLE, lambda file: file.write(table.getbuffer()))
    elif path.read_bytes() != table.getbuffer():
        say(
            f"kept {path}, which was changed since an audit wrote it; move it away to "
            "have a new one"
        )
    matrix = audit.issues.transition_matrix
    files.write_json(
        FIGURES,
        {
            "num_issues": audit.issues.num_issues,
            "num_examples": len(audit.record.index),
            "class_names": list(audit.class_names),
            "transition_matrix": [[_number(x) for x in row] for row in matrix.tolist()],
            **{name: _number(value) for name, value in audit.quality().items()},
        },
    )
    page = render(make_page(audit, top, say))
    files.write(PAGE, lambda file: file.write(page.encode("utf-8", "replace")))


def make_page(
    audit: Audited, top: int, say: Callable[[str], None] = lambda line: None
) -> AuditPage:
    """Returns what the page says."""
    issues, num_classes = audit.issues, len(audit.class_names)
    shown = _shown(issues, top)
    contents, remark = _contents(audit, shown)
    if remark:
        say(remark)
    rank = issues.rank
    examples = [
        Example(
            rank=int(rank[i]) + 1,
            given=int(issues.given[i]),
            suggested=int(issues.suggested[i]),
            score=float(issues.score[i]),
            is_issue=bool(issues.is_issue[i]),
            history=audit.history[i] / 255,
            name="" if audit.names is None else os.fsdecode(audit.names[i]),
            content=content,
        )
        for i, content in zip(shown, contents, strict=True)
    ]
    of_quality = {
        "auroc": "AUROC",
        "average_precision": "Average precision",
        "precision_at_num_issues": "Precision",
        "recall_at_num_issues": "Recall",
    }
    return AuditPage(
        title=str(audit.files.path),
        class_names=audit.class_names,
        examples=examples,
        class_sizes=np.bincount(issues.given, minlength=num_classes),
        class_issues=np.bincount(issues.given[issues.is_issue], minlength=num_classes),
        transition_matrix=issues.transition_matrix,
        confused_pairs=[p for p in issues.confused_pairs() if p[2] >= 0.5],
        steps=_steps(audit),
        quality={
            of_quality[name]: value
            for name, value in audit.quality().items()
            if not math.isnan(value)
        },
        remark=remark,
    )


def _shown(issues: LabelIssues, top: int) -> list[int]:
    """Returns the most suspicious examples, and some issues of every class."""
    chosen = set(issues.order[:top].tolist())
    first = issues.order[: issues.num_issues]
    by_class = first[np.argsort(issues.given[first], kind="stable")]
    starts = np.flatnonzero(np.diff(issues.given[by_class], prepend=-1))
    further = {int(i) for s in starts for i in _same(issues.given, by_class, s)}
    # No more than the page was asked for once again.
    extra = sorted(further - chosen, key=issues.rank.__getitem__)[:top]
    return sorted([*chosen, *extra], key=issues.rank.__getitem__)


def _same(given: np.ndarray, by_class: np.ndarray, start: int) -> np.ndarray:
    some = by_class[start : start + _OF_EACH_CLASS]
    return some[given[some] == given[some[0]]]


def _contents(audit: Audited, shown: list[int]) -> tuple[list[Any], str]:
    """Returns the inputs to show, and a remark on those that are not at hand."""
    nothing = [None] * len(shown)
    if audit.config is None:
        return nothing, (
            "the page shows no inputs: this run was trained on arrays that a program "
            "held"
        )
    try:
        source = data.listed(audit.config.dataset).train
        positions = _positions(audit, source)
    except (InputError, OSError) as error:
        return nothing, f"the page shows no inputs: {error}"
    contents = contents_of(source, positions[shown])
    missing = sum(content is None for content in contents)
    return contents, f"{missing} inputs could not be read" if missing else ""


def _positions(audit: Audited, source: data.Split) -> np.ndarray:
    """Returns where a source has the run's examples, if it still has them."""
    order = np.argsort(source.index)
    wanted = audit.record.index
    found = np.searchsorted(source.index, wanted, sorter=order)
    positions = order[np.minimum(found, len(order) - 1)]
    same = source.index[positions] == wanted
    if audit.names is not None and source.names is not None:
        now = [os.fsencode(name) for name in source.names[positions]]
        same &= np.array(now) == audit.names
    elif audit.record.clean_labels is not None and source.clean_labels is not None:
        same &= source.clean_labels[positions] == audit.record.clean_labels
    if not same.all():
        raise InputError(
            f"the data set has changed since the run, {int((~same).sum())} of "
            f"{len(same)} examples are not where they were: expected it as it was"
        )
    return positions


def new_labels(audit: Audited, action: str) -> tuple[np.ndarray, str]:
    """Returns labels to train on again, and a line on what they are.

    A corrected label in ``label_issues.csv`` always counts; what it does not say
    follows the action.

    Args:
      audit: of the run.
      action: ``"relabel"`` gives issues their suggested class, ``"remove"`` leaves
        them out of training, ``"corrected"`` changes nothing that a person did not.

    Returns:
      Integers ``[source_size]`` in the source's original order, -1 for an example to
      leave out of training. Examples that were not in the run keep their labels.

    Raises:
      InputError: the data set is not there or not as it was, or its original order
        is not known, or a corrected label is no class.
    """
    if audit.config is None:
        raise InputError(
            f"the run in {audit.files.path} was trained on arrays that a program held: "
            "expected a data set with a name to write labels in its order; use "
            "FitResult.label_issues() in that program"
        )
    table = audit.files.path / TABLE
    index = audit.record.index
    corrected = (
        read_corrections(table, index, audit.class_names) if table.exists() else {}
    )
    if action == "corrected" and not corrected:
        raise InputError(
            f"{table} has no corrected label: expected classes in its last column, "
            "corrected_label; fill some in, or take --action=relabel or remove"
        )
    labels = _labels_of_source(audit)
    issues = audit.issues
    changed = issues.is_issue if action != "corrected" else np.zeros(len(index), bool)
    by_action = LEFT_OUT if action == "remove" else issues.suggested[changed]
    before = labels.copy()
    labels[index[changed]] = by_action
    labels[list(corrected)] = list(corrected.values())
    left_out = int(((labels == LEFT_OUT) & (before != LEFT_OUT)).sum())
    relabelled = int(((labels != before) & (labels != LEFT_OUT)).sum())
    of_a_person = f", {len(corrected)} labels by {TABLE}" if corrected else ""
    return labels, f"{relabelled} relabelled, {left_out} left out{of_a_person}"


def _labels_of_source(audit: Audited) -> np.ndarray:
    """Returns the given labels of the whole source in its original order."""
    config, record = audit.config, audit.record
    assert config is not None
    # Instance noise looks at the images, all other noise at labels alone.
    load = data.load if config.noise.kind == "instance" else data.listed
    dataset = load(config.dataset)
    if not dataset.train.index_is_original:
        raise InputError(
            "the data set does not say which example was which in the original order, "
            "so no label file fits it: expected a source with such an order"
        )
    _positions(audit, dataset.train)
    given = apply_noise(config, dataset)
    labels = np.full(dataset.train.source_size, LEFT_OUT, np.int32)
    labels[given.index] = given.noisy_labels
    if not np.array_equal(labels[record.index], record.noisy_labels):
        raise InputError(
            "the data set gives other labels now than when the run was trained: "
            "expected it as it was; bring it back"
        )
    return labels


def write_labels(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Writes a label file that ``noise.kind=file`` reads; see :func:`check_output`."""
    try:
        write_atomically(path, lambda file: np.save(file, labels))
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}): expected a directory of one's "
            "own; give another --write_labels"
        ) from None


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises InputError where a label file must not or cannot be written."""
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(
            f"--write_labels={path}: expected a file name that ends in .npy; give one"
        )
    if path.exists() or path.is_symlink():
        raise InputError(
            f"{path} exists: expected a new file, nothing is overwritten; give another "
            "--write_labels"
        )
    if not path.parent.is_dir():
        raise InputError(
            f"no directory {path.parent}: expected one to write {path.name} to; make "
            "it, or give another --write_labels"
        )


def _steps(audit: Audited) -> list[Step]:
    """Returns how to go on, as the page says it."""
    workdir = str(audit.files.path)
    command = ["dal-jax", "audit", f"--workdir={workdir}"]
    file = f"{audit.files.path.name}-labels.npy"
    look = Step(
        f"Look through the examples. Where you know better, write the right class into "
        f"the column corrected_label of {TABLE}, or -1 to leave the example out.",
        "",
    )
    if audit.config is None:
        return [look]
    again = dataclasses.replace(
        audit.config,
        noise=dataclasses.replace(audit.config.noise, kind="file", path=file),
    )
    words = [*train_command(again), f"--workdir={workdir}-again"]
    return [
        look,
        Step(
            "Write new labels. The likely wrong ones get the suggested class, and what "
            "you corrected always counts; --action=remove leaves them out of training "
            "instead, --action=corrected changes only what you corrected.",
            quoted([*command, f"--write_labels={file}", "--action=relabel"]),
        ),
        Step("Train again, on the new labels.", quoted(words)),
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def describe(audit: Audited) -> str:
    """Returns the audit in one line."""
    number, of = audit.issues.num_issues, len(audit.record.index)
    line = f"{number} of {of} labels are likely wrong, {100 * number / of:.1f} %"
    quality: Mapping[str, float] = audit.quality()
    if quality and not math.isnan(quality["auroc"]):
        line += f"; against the clean labels AUROC {quality['auroc']:.3f}"
    return line
