"""The report of a run: what the page says of whole, stopped, older and odd runs."""

import dataclasses
import fcntl
import json
import re
import shutil
from html import escape

import numpy as np
import pytest

from dal_jax import data, load, report, training
from dal_jax.commands.report import main
from dal_jax.config import config_of
from dal_jax.noise import NoiseRecord
from dal_jax.report.advice import advise
from dal_jax.training.storing import StorageError

SECTIONS = [
    "Learning curves",
    "What became of the labels",
    "How sure the network was",
    "The training labels",
    "Test set",
    "Most confident mistakes",
    "How it was trained",
]


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of a finished run on digits, without its checkpoints, to change."""
    unneeded = shutil.ignore_patterns("checkpoints")
    return shutil.copytree(trained, tmp_path / "run", ignore=unneeded)


@pytest.fixture
def command(workdir, capsys):
    def run(*arguments):
        try:
            main(["dal-jax report", *(arguments or [f"--workdir={workdir}"])])
            status = 0
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def lines_of(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def write_lines(workdir, entries):
    text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
    (workdir / "metrics.jsonl").write_text(text)


@pytest.fixture(scope="module")
def page_of(parse_page):
    return lambda workdir: parse_page((workdir / "report.html").read_text())


def text_of(workdir):
    html = (workdir / "report.html").read_text()
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def make(workdir):
    report.write(workdir)
    return text_of(workdir)


def forget_clean_labels(workdir):
    record = NoiseRecord.load(workdir / "noise.npz")
    unknown = {"clean_labels": None, "realised_rate": float("nan")}
    dataclasses.replace(record, **unknown).save(workdir / "noise.npz")
    nothing = dict.fromkeys(("memorized", "corrected", "fitted"))
    write_lines(workdir, [entry | nothing for entry in lines_of(workdir)])


def test_a_run_ends_with_a_report_that_the_command_makes_again(
    trained, workdir, command
):
    at_its_end = (trained / "report.html").read_text()
    (workdir / "report.html").unlink()
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    status, printed, errors = command()
    assert (status, errors) == (0, "")
    assert printed == f"finished, 6 of 6 epochs; see {workdir / 'report.html'}\n"
    again = (workdir / "report.html").read_text()
    assert again.replace(str(workdir), str(trained)) == at_its_end
    (workdir / "report.html").unlink()
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before


def test_the_predictions_are_those_of_the_network(trained):
    config = config_of(json.loads((trained / "config.json").read_text()))
    test = data.load(config.dataset).test
    probabilities = load(trained).predict_proba(test.inputs)
    with np.load(trained / "predictions.npz") as kept:
        assert str(kept["split"]) == "test"
        np.testing.assert_array_equal(kept["index"], test.index)
        np.testing.assert_array_equal(kept["label"], test.labels)
        np.testing.assert_array_equal(kept["predicted"], probabilities.argmax(1))
        np.testing.assert_allclose(kept["probability"], probabilities.max(1), rtol=1e-5)
        accuracy = float(np.mean(kept["predicted"] == kept["label"]))
    assert accuracy == pytest.approx(lines_of(trained)[-1]["test_accuracy"])


def test_headings_names_and_nothing_from_outside(trained, page_of):
    page = page_of(trained)
    accuracy = lines_of(trained)[-1]["test_accuracy"]
    heading, remarks, *sections = [text for _, text in page.all("h1", "h2")]
    assert heading == f"{100 * accuracy:.1f} % test accuracy after 6 epochs"
    assert remarks in ("What stands out", "Nothing stands out")
    assert sections == SECTIONS
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert max(np.diff(levels)) <= 1
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs, _ in page.elements:
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in ids
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in ids
        if attrs.get("role") in ("region", "img") or tag == "pre":
            assert {"aria-label", "aria-labelledby"} & attrs.keys()
        if tag == "img":
            assert attrs["alt"]
        for where in ("src", "href"):
            assert attrs.get(where, "#").startswith(("data:image/png", "#"))
    html = (trained / "report.html").read_text()
    assert not re.search(r"@import|url\(|<script|<link", html)
    assert len(html) < 1_500_000


def test_the_curves_are_the_lines_of_metrics(trained, page_of):
    page, entries = page_of(trained), lines_of(trained)
    charts = {
        attrs["aria-label"].split(",")[0]: attrs["aria-label"]
        for attrs, _ in page.all("div", role="img")
    }
    wrong = "Training examples with a wrong label"
    right = "Training examples with a right label"
    for title, name, words in (
        ("Accuracy", "test_accuracy", "test"),
        ("Accuracy", "validation_accuracy", "validation (noisy labels)"),
        (wrong, "memorized", "the wrong label given (memorized)"),
        (wrong, "corrected", "their true class (corrected)"),
        (right, "fitted", "their label"),
    ):
        curve = [100 * entry[name] for entry in entries]
        said = f"{words}: {curve[0]:.1f} % at first, {curve[-1]:.1f} % at last, "
        assert f"{said}{max(curve):.1f} % at most" in charts[title]
    # q is 0.6 in the first epoch and 0.15 more in each that follows.
    assert "q = 1 at epoch 3.7" in charts["The loss's schedule"]
    assert "bootstrap weight: 0 at first" in charts["The loss's schedule"]
    texts = [text for _, text in page.all("figcaption")]
    assert texts[-3:] == ["Epoch 1", "Epoch 4, q = 1", "Epoch 6"]


def test_matrices_and_tables_count_the_labels(trained, page_of):
    page = page_of(trained)
    record = NoiseRecord.load(trained / "noise.npz")
    noise, confusion = page.all("table", **{"class": "matrix"})
    shares = [f"{100 * x:.0f}" for x in np.diag(record.transition_matrix)]
    own = [text for attrs, text in page.all("td", **{"class": "own"})]
    assert own[:10] == shares
    assert "true \\ given" in noise[1]
    assert "label \\ predicted" in confusion[1]
    with np.load(trained / "predictions.npz") as kept:
        right = kept["predicted"] == kept["label"]
        by_class = [right[kept["label"] == k].mean() for k in range(10)]
    cells = [text for _, text in page.all("td", **{"class": "number"})]
    accuracies = [text for text in cells if text.endswith(" %")][-10:]
    assert accuracies == [f"{100 * share:.1f} %" for share in sorted(by_class)]
    wrong = int((record.noisy_labels != record.clean_labels).sum())
    assert f"{wrong} of {len(record.index)} training labels are wrong" in text_of(
        trained
    )


def test_mistakes_are_shown_the_most_confident_first(trained, page_of):
    page = page_of(trained)
    shown = [text for _, text in page.all("dl") if text.startswith("Probability")]
    with np.load(trained / "predictions.npz") as kept:
        wrong = kept["predicted"] != kept["label"]
        sure = np.sort(kept["probability"][wrong])[::-1][:24]
    assert shown == [
        f"Probability{x:.3f}" if x < 0.9995 else "Probabilityover 0.999" for x in sure
    ]
    assert len(page.all("img")) == len(page.all("li", **{"class": "card"}))


def test_without_clean_labels_the_audit_is_named(workdir, page_of):
    forget_clean_labels(workdir)
    text = make(workdir)
    assert "The clean labels are unknown" in text
    assert f"dal-jax audit --workdir={workdir}" in text.replace(" \\ --", " --")
    assert "Which labels are wrong is not known" in text
    assert "Wrong labels" not in text
    assert "All examples" in text
    assert "nan" not in text.split()
    (workdir / "label_issues.html").write_text("an audit")
    mark = json.loads((workdir / ".dal_jax").read_text())
    assert {"report.html", "tensorboard", "predictions.npz"} <= set(mark["names"])
    make(workdir)
    links = [attrs["href"] for attrs, _ in page_of(workdir).all("a")]
    assert "label_issues.html" in links


def test_doubted_labels_are_remarked_where_nothing_is_known(workdir):
    forget_clean_labels(workdir)
    assert "of the training labels a probability below 5 %" in make(workdir)


def test_a_run_that_stopped_says_so(workdir, command):
    for name in ("summary.json", "dynamics.npz", "predictions.npz", "report.html"):
        (workdir / name).unlink()
    entries = lines_of(workdir)[:3]
    write_lines(workdir, entries)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')  # torn by a kill
    status, printed, _ = command()
    assert (status, printed.split(";")[0]) == (0, "stopped, 3 of 6 epochs")
    text = text_of(workdir)
    assert f"{100 * entries[-1]['test_accuracy']:.1f} % test accuracy after 3" in text
    assert "The run stopped after epoch 3 of 6." in text
    assert "is written when a run ends" in text
    assert "predictions of single examples are written when a run ends" in text
    # The axis ends where the run is to end.
    assert 'left:100.0%">6</span>' in (workdir / "report.html").read_text()
    with (workdir / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command()[1].startswith("running, 3 of 6 epochs")
    assert "The run is in progress" in text_of(workdir)
    write_lines(workdir, [])
    assert "Nothing was evaluated yet" in make(workdir)


def test_an_older_run_says_what_it_lacks(workdir):
    for name in (
        "dynamics.npz",
        "predictions.npz",
        "environment.json",
        "preprocessing.json",
        ".dal_jax",
    ):
        (workdir / name).unlink()
    (workdir / "report.html").unlink()
    entries = lines_of(workdir)
    for entry in entries:
        del entry["fitted"]
    write_lines(workdir, entries)
    text = make(workdir)
    for words in (
        "This run has no dynamics.npz",
        "This run has no predictions.npz",
        "An earlier version did not note its versions",
        "What became of the right labels is not known",
    ):
        assert words in text
    # What it wrote is its own, so that --overwrite may remove it.
    assert "report.html" in json.loads((workdir / ".dal_jax").read_text())["names"]
    assert report.write(workdir).state == "finished"


def test_a_run_of_objects_has_a_report_with_its_inputs(tmp_path):
    import optax
    from flax import nnx

    from dal_jax import losses

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 96)
    features = (np.eye(3)[labels] + rng.normal(size=(96, 3))).astype(np.float32)
    training.fit(
        lambda rngs: nnx.Linear(3, 3, rngs=rngs),
        (features[:64], labels[:64]),
        test=(features[64:], labels[64:]),
        loss=losses.make("ce"),
        optimizer=optax.sgd(0.1),
        num_epochs=2,
        batch_size=32,
        loss_name="ce",
        workdir=tmp_path / "run",
    )
    text = text_of(tmp_path / "run")
    assert "Values: " in text
    assert "Loss ce" in text
    assert "It was trained by dal_jax.training.fit" in text
    again = make(tmp_path / "run")
    assert "trained on arrays that a program held" in again
    assert "Values: " not in again


def test_data_that_are_gone_or_have_changed_are_remarked(workdir, page_of):
    values = json.loads((workdir / "config.json").read_text())
    values["dataset"] |= {"name": "arrays", "train_path": "gone.npz"}
    (workdir / "config.json").write_text(json.dumps(values))
    assert "Their inputs are not shown" in make(workdir)
    assert "gone.npz" in text_of(workdir)
    with np.load(workdir / "predictions.npz") as kept:
        arrays = dict(kept)
    arrays["label"] = (arrays["label"] + 1) % 10
    np.savez(workdir / "predictions.npz", **arrays)
    values["dataset"]["name"] = "digits"
    (workdir / "config.json").write_text(json.dumps(values))
    assert "the data set has changed" in make(workdir)
    assert page_of(workdir).all("img") == []


def test_a_report_that_cannot_be_written_does_not_lose_the_run(trained, tmp_path):
    """And what is predicted is found again where the last evaluation is past."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    for name in ("summary.json", "report.html", "predictions.npz", "dynamics.npz"):
        (workdir / name).unlink()
    config = config_of(json.loads((workdir / "config.json").read_text()))
    said = []

    def full(*arguments, **options):
        raise StorageError("cannot write: no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", full)
        training.train_and_evaluate(config, workdir, say=said.append)
    assert (workdir / "summary.json").exists()
    assert not (workdir / "report.html").exists()
    assert "no space left" in said[-1]
    assert f"dal-jax report --workdir={workdir}" in said[-1]
    with (
        np.load(workdir / "predictions.npz") as again,
        np.load(trained / "predictions.npz") as before,
    ):
        for name in before.files:
            np.testing.assert_array_equal(again[name], before[name])
    assert report.write(workdir).state == "finished"


def _claim(workdir):
    mark = json.loads((workdir / ".dal_jax").read_text())
    mark["names"].remove("report.html")
    (workdir / ".dal_jax").write_text(json.dumps(mark))
    (workdir / "report.html").write_text("somebody's")


def _cut(name):
    return lambda workdir: (workdir / name).write_bytes(
        (workdir / name).read_bytes()[:-500]
    )


REFUSED = {
    "no run": (lambda workdir: (workdir / "config.json").unlink(), "holds no run"),
    "damaged": (_cut("dynamics.npz"), "cannot be read"),
    "damaged labels": (_cut("noise.npz"), "cannot be read"),
    "no JSON": (_cut("config.json"), "is damaged"),
    "somebody's file": (_claim, "no run of this program wrote"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(workdir, command, change, words):
    change(workdir)
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    status, printed, errors = command()
    assert (status, printed, len(errors.splitlines())) == (2, "", 1)
    assert words in errors
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before


def test_a_workdir_must_be_given_and_be_there(command, tmp_path):
    assert command("--workdir=")[0] == 2
    status, _, errors = command(f"--workdir={tmp_path / 'nowhere'}")
    assert status == 2
    assert "holds no run" in errors
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture(scope="module")
def healthy(trained):
    """A run of 40 evaluations with nothing to remark."""
    run = report.read(trained)
    curve = 0.9 - 0.6 * 0.7 ** np.arange(40)
    entries = [
        {
            "epoch": i + 1,
            "step": i + 1,
            "skipped_steps": 0,
            "train_accuracy": 0.6,
            "validation_accuracy": float(x),
            "memorized": 0.1,
            "corrected": 0.8,
        }
        for i, x in enumerate(curve)
    ]
    seen = dataclasses.replace(run.predicted, predicted=run.predicted.label)
    return dataclasses.replace(run, entries=entries, predicted=seen)


def _with(run, **changes):
    """Returns a run whose curves are changed, by functions of the share of the run."""
    shares = np.linspace(0, 1, len(run.entries))
    entries = [
        entry | {name: float(f(x)) for name, f in changes.items()}
        for entry, x in zip(run.entries, shares, strict=True)
    ]
    return dataclasses.replace(run, entries=entries)


def _predicting(run, predict):
    seen = dataclasses.replace(run.predicted, predicted=predict(run.predicted.label))
    return dataclasses.replace(run, predicted=seen)


def _outvoted(run):
    clean = run.record.clean_labels
    record = NoiseRecord.count(
        np.where(clean == 3, 5, clean),
        clean,
        run.record.index,
        num_classes=10,
        nominal_rate=0.1,
        kind="given",
        options={},
    )
    return dataclasses.replace(run, record=record)


REMARKS = {
    "memorized": (lambda r: _with(r, memorized=lambda x: 0.9), "as they were given"),
    "skipped": (lambda r: _with(r, skipped_steps=lambda x: x >= 1), "were skipped"),
    "rising": (
        lambda r: _with(r, validation_accuracy=lambda x: 0.2 + 0.3 * x),
        "still rises at the end",
    ),
    "fallen": (
        lambda r: _with(
            r,
            validation_accuracy=lambda x: 0.8 - abs(x - 0.3),
            train_accuracy=lambda x: 0.1,
        ),
        "Validation accuracy was 79.",
    ),
    "apart": (lambda r: _with(r, train_accuracy=lambda x: 1), "by heart"),
    "never predicted": (
        lambda r: _predicting(r, lambda y: np.where(y == 4, 9, y)),
        "Never predicted on the test examples: 4.",
    ),
    "chance": (lambda r: _predicting(r, lambda y: (y + 1) % 10), "Nothing was learnt"),
    "outvoted": (_outvoted, "one other class than rightly: 3."),
    "stopped": (lambda r: dataclasses.replace(r, state="stopped"), "The run stopped"),
}


def test_a_healthy_run_has_no_remarks(healthy):
    assert advise(healthy) == []
    wavering = np.random.default_rng(0).normal(size=41) * 0.01
    waves = iter(wavering)
    steady = _with(healthy, validation_accuracy=lambda x: 0.8 + next(waves))
    assert advise(steady) == []
    # Three evaluations, the last the best: neither fallen nor long enough to rise.
    short = dataclasses.replace(healthy, entries=healthy.entries[:3])
    assert advise(_with(short, validation_accuracy=lambda x: 0.6 + 0.2 * x)) == []


@pytest.mark.parametrize(("change", "words"), REMARKS.values(), ids=REMARKS)
def test_what_a_person_would_remark(healthy, change, words):
    (remark,) = advise(change(healthy))
    assert words in f"{remark.text} {remark.advice}"
    assert remark.text.endswith(".")
    assert remark.advice.endswith(".")


# Both widths in one browser: what is wider than its frame, and texts on an axis that
# touch each other.
FRAMES = """<!doctype html><title>waiting</title>
<iframe style="width: 390px; height: 900px" srcdoc="{page}"></iframe>
<iframe style="width: 1280px; height: 900px" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument;
    const root = page.documentElement;
    found.push(root.scrollWidth - root.clientWidth);
    for (const plot of page.querySelectorAll(".plot"))
      for (const kind of [".x", ".y"]) {{
        const boxes = [...plot.querySelectorAll(kind)].map(
          (text) => text.getBoundingClientRect());
        boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {{
          if (a.left < b.right && b.left < a.right && a.top < b.bottom &&
              b.top < a.bottom) found.push("overlap");
        }}));
        if (!boxes.length) found.push("no axis");
      }}
    found.push(page.querySelectorAll(".plot svg .line").length);
    found.push(frame.contentWindow.getComputedStyle(page.body).backgroundColor);
  }}
  document.title = found.join(" ");
}};
</script>"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_opens_in_a_browser_narrow_and_wide(trained, browse, scheme):
    page = escape((trained / "report.html").read_text())
    flag = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    dom = browse(FRAMES.format(page=page), flag)
    ground = {"dark": "rgb(16, 21, 27)", "light": "rgb(246, 247, 249)"}[scheme]
    # Accuracy has three lines, wrong labels three, the schedule two, others one.
    assert f"<title>0 11 {ground} 0 11 {ground}</title>" in dom
