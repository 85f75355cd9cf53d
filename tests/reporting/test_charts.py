"""Charts as numbers: what is drawn where."""

import re

import numpy as np
import pytest

from dal_jax.reporting import charts
from dal_jax.reporting.charts import Chart, Histogram, Line
from dal_jax.reporting.report import Matrix, Report, Section, Table, render

NAN = float("nan")


def drawn(values, epochs=None, **options):
    values = np.array(values, float)
    epochs = np.arange(1.0, len(values) + 1) if epochs is None else np.array(epochs)
    given = {"last_epoch": float(epochs[-1])} | options
    line = Line("a line", values, "right")
    return charts.lines(Chart("A chart", [line], epochs, **given))


def points(path):
    return [tuple(map(float, p)) for p in re.findall(r"([\d.]+),([\d.]+)", path)]


def test_a_line_goes_through_its_values():
    chart = drawn([0.2, 0.4, 0.8])
    assert points(chart["lines"][0]["path"]) == [(0, 400), (500, 266.7), (1000, 0)]
    assert chart["y"] == [(0, "20 %"), (33.33, "40 %"), (66.67, "60 %"), (100, "80 %")]
    assert chart["x"] == [(0, "1"), (50, "2"), (100, "3")]
    assert chart["lines"][0]["last"] == "80.0 %"


def test_the_axis_ends_where_the_run_will():
    assert points(drawn([0.2, 0.4], last_epoch=5.0)["lines"][0]["path"])[-1][0] == 250


def test_gaps_dots_and_nothing_known():
    (line,) = drawn([0.1, NAN, 0.3, 0.2])["lines"]
    assert line["path"].count("M") == 2
    assert drawn([0.5], last_epoch=1.0)["lines"][0]["path"].endswith("h0")
    empty = Line("unknown", np.full(2, NAN), "other")
    known = Line("known", np.array([1.0, 2.0]), "right")
    chart = charts.lines(Chart("t", [empty, known], np.array([1.0, 2.0]), 2.0, False))
    assert [line["name"] for line in chart["lines"]] == ["known"]


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
def test_a_level_line_has_an_axis(values):
    for percent in (True, False):
        chart = drawn(values, percent=percent)
        assert len(chart["y"]) >= 2
        assert len(points(chart["lines"][0]["path"])) == 2


def test_a_moment_is_marked_where_it_is():
    chart = drawn([0.1, 0.2, 0.3], marker=(1.5, "q = 1"))
    assert (chart["marker"]["place"], chart["marker"]["text"]) == (25, "q = 1")
    assert "q = 1 at epoch 1.5" in chart["label"]
    assert drawn([0.1, 0.2, 0.3], marker=(9.0, "q = 1"))["marker"] is None


def test_a_long_run_has_few_points_and_rows_and_keeps_its_ends():
    chart = drawn(np.linspace(0, 1, 5000))
    path = points(chart["lines"][0]["path"])
    assert len(path) <= 600
    assert (path[0], path[-1]) == ((0, 400), (1000, 0))
    assert len(chart["rows"]) == 12
    assert chart["rows"][-1] == ["5000", "100.0 %"]


def test_groups_of_a_histogram_add_up_to_one_each():
    counts = np.array([3, 1]), np.array([0, 0]), np.array([100, 300])
    names = ("a", "none", "b")
    groups = [(n, c, "right") for n, c in zip(names, counts, strict=True)]
    spread = Histogram("t", groups)
    found = charts.histogram(spread)
    assert [group["name"] for group in found["groups"]] == ["a", "b"]
    assert "a: 75.0 % in the lowest of 2 bins, 25.0 % in the highest" in found["label"]
    tops = re.findall(r"V([\d.]+)H", found["groups"][1]["path"])
    heights = [400 - float(top) for top in tops]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.02)


def test_many_classes_are_a_picture_whose_largest_entries_are_named(parse_page):
    names = [f"class {i}" for i in range(900)]
    shares = np.eye(900)
    shares[7, 7], shares[7, 400] = 0.6, 0.4
    shares[8] = NAN
    matrix = Matrix("M", "How to read it.", shares, names, "true", "given")
    table = Table("T", ["Class", "Number"], [["<b>", 1234], ["x", 0.5]], folded=True)
    html = render(Report("r", "h", [], [], [Section("s", "S", [matrix, table])]))
    page = parse_page(html)
    (picture,) = page.all("img")
    assert "Heat map of 900 classes" in picture[0]["alt"]
    items = [text for _, text in page.all("li") if "class" in text]
    assert items == ["true class 7, given class 400: 40 %"]
    assert "<b>" in [text for _, text in page.all("th")]
    assert [text for _, text in page.all("td")] == ["1,234", "50.0 %"]
    assert len(html) < 60_000
