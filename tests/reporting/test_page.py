"""The audit's page: names, order, escapes, nothing from outside; seen by a browser."""

import dataclasses
import re
import sys
from html import escape
from pathlib import Path

import numpy as np
import pytest

from dal_jax.reporting import figures
from dal_jax.reporting.page import AuditPage, Example, Step, render

HOSTILE = "<script>document.title='taken'</script>\"'&{{ 7 * 7 }}"
LONG = "w" * 120
NAMES = ("cat", HOSTILE, LONG)


def make_page(names=NAMES, **changes):
    rng = np.random.default_rng(0)
    num = len(names)
    examples = [
        Example(
            rank=rank,
            given=rank % num,
            suggested=(rank + 1) % num,
            score=1 - rank / 10,
            is_issue=rank < 3,
            history=np.linspace(0.1, 0.02, 6),
            name=f"/data/some where/photos/{names[rank % num][:9]}/{rank}.png",
            content=rng.integers(0, 256, (8, 8, 1), np.uint8),
        )
        for rank in range(1, 5)
    ]
    page = AuditPage(
        title="runs/photos",
        class_names=names,
        examples=examples,
        class_sizes=np.full(num, 20),
        class_issues=np.arange(num),
        transition_matrix=np.full((num, num), 1 / num),
        confused_pairs=[(0, 1, 4.2), (1, 0, 1.0)],
        steps=[Step("Write new labels.", "dal-jax audit --workdir='my runs'")],
    )
    return dataclasses.replace(page, **changes)


@pytest.fixture(scope="module")
def page(parse_page):
    return parse_page(render(make_page()))


def test_headings_give_the_order_of_the_page(page):
    assert [text for _, text in page.all("h1", "h2")] == [
        "3 of 60 labels are likely wrong",
        "Most suspicious examples",
        "By class",
        "Which classes are confused",
        "How to go on",
    ]
    assert [text for _, text in page.all("h3")] == [
        f"Rank {rank}. labelled {NAMES[rank % 3]}, looks like {NAMES[(rank + 1) % 3]}"
        for rank in range(1, 5)
    ]
    assert [attrs["id"] for attrs, _ in page.all("li") if "id" in attrs] == [
        f"rank-{rank}" for rank in range(1, 5)
    ]


def test_everything_has_a_name(page):
    assert [attrs["alt"] for attrs, _ in page.all("img")] == [
        f"Example labelled {NAMES[rank % 3]}" for rank in range(1, 5)
    ]
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.elements:
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in ids
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in ids
        if attrs.get("role") == "region" or "tabindex" in attrs:
            assert {"aria-label", "aria-labelledby"} & attrs.keys()
    assert [attrs["for"] for attrs, _ in page.all("label")] == ["given"]
    assert all("scope" in attrs for attrs, _ in page.all("th"))
    assert all(text for _, text in page.all("caption", "button", "a"))


def test_nothing_comes_from_outside_and_names_are_text(page):
    for _, attrs, _ in page.elements:
        for where in ("src", "href"):
            assert attrs.get(where, "#").startswith(("data:image/png", "#"))
    assert len(page.all("script")) == 1
    assert HOSTILE in {text for _, text in page.all("option")}
    assert "49" not in " ".join(text for _, text in page.all("option"))
    html = render(make_page())
    assert "@import" not in html
    assert "url(" not in html


def test_the_matrix_names_its_most_confused_pairs(page):
    pairs = page.all("ol", **{"class": "pairs"})[0][1]
    assert f"About 4 of class cat are labelled {HOSTILE}" in pairs
    assert f"About 1 of class {HOSTILE} is labelled cat" in pairs
    assert len(page.all("td", **{"class": "own"})) == 3


def test_a_class_leads_to_its_examples(page):
    links = {
        attrs["href"]
        for attrs, _ in page.all("a")
        if attrs.get("aria-label", "").startswith("cat, rank")
    }
    assert links == {"#rank-3"}


def test_many_classes_are_a_picture_that_is_described(parse_page):
    names = tuple(f"class {i}" for i in range(30))
    matrix = np.full((30, 30), np.nan)
    matrix[:20] = 1 / 30
    page = parse_page(render(make_page(names, transition_matrix=matrix)))
    pictures = [a for a, _ in page.all("img") if "Heat map" in a["alt"]]
    assert len(pictures) == 1
    assert pictures[0]["src"].startswith("data:image/png;base64,")
    assert page.all("table", **{"class": "matrix"}) == []


def test_what_is_not_known_is_left_out():
    page = make_page(
        examples=[],
        class_issues=np.zeros(3, int),
        confused_pairs=[],
        transition_matrix=np.full((3, 3), np.nan),
        remark="the page shows no inputs",
    )
    html = render(page)
    assert "No label of 60 stands out as wrong" in html
    assert "the page shows no inputs" in html
    assert "AUROC" not in html
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    assert "0.987" in render(dataclasses.replace(page, quality={"AUROC": 0.987}))


def test_numbers_and_photographs(parse_page):
    first = make_page().examples[0]
    row = dataclasses.replace(first, content=np.arange(20) / 4)
    photo = dataclasses.replace(
        first, rank=2, content=np.zeros((300, 400, 3), np.uint8)
    )
    page = parse_page(render(make_page(examples=[row, photo])))
    assert "Values: 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, and 12 more" in [
        text for _, text in page.all("p")
    ]
    (picture, _), *others = page.all("img")
    assert picture["src"].startswith("data:image/jpeg;base64,")
    assert len(picture["src"]) < 4000
    assert others == []


def test_a_line_begins_left_and_is_high_where_the_probability_is():
    assert figures.line(np.array([1.0, 0.25])) == "0,0 100,18"
    assert figures.line(np.array([np.nan])) == "100,24"


# A window of a browser without a screen is wider than a phone; a frame need not be.
PHONE = """<!doctype html><title>waiting</title>
<iframe style="width: 390px; border: 0" srcdoc="{}"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const given = page.getElementById("given");
  given.value = "1";
  given.dispatchEvent(new Event("change"));
  const width = page.documentElement.scrollWidth;
  document.title = `${{width}} px, ${{page.getElementById("shown").textContent}}`;
}};
</script>"""


def test_opens_in_a_browser_at_a_phones_width(browse):
    seen = browse(PHONE.format(escape(render(make_page()))))
    assert "<title>390 px, 2 of 4 shown</title>" in seen


def test_reporting_knows_neither_jax_nor_a_run():
    directory = Path(figures.__file__).parent
    lines = [
        line.split()[1]
        for path in directory.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r"\s*(from|import) ", line)
    ]
    packages = {name.split(".")[0] for name in lines} - set(sys.stdlib_module_names)
    assert packages == {"dal_jax", "numpy", "jinja2", "matplotlib", "PIL"}
    ours = {name for name in lines if name.startswith("dal_jax")}
    # What analysis finds are values of numpy and scipy.
    known = ("dal_jax.reporting", "dal_jax.analysis")
    assert all(name.startswith(known) for name in ours)
