"""Pictures of a comparison: what they draw, and that they are the same each time."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer

from dal_jax.analysis.comparison import Estimate
from dal_jax.reporting import comparison_figures as figures

EPOCHS = np.arange(1, 6)
RISING = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.4, 0.5, 0.6, 0.9]])


def test_curves_are_means_with_a_band_of_the_seeds():
    figure = figures.accuracy_over_epochs(
        {"a": {"ce": (EPOCHS, RISING)}, "b": {"dal": (EPOCHS, RISING)}}
    )
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), RISING.mean(0))
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.1, 0.9)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ce", "dal"]


def test_a_method_looks_the_same_in_all_panels_and_like_no_other():
    names = [f"loss{i}" for i in range(12)]
    both = dict.fromkeys(names, (EPOCHS, RISING))
    figure = figures.accuracy_over_epochs({"a": both, "b": {"loss3": both["loss3"]}})
    looks = [(to_rgb(x.get_color()), x.get_linestyle()) for x in figure.axes[0].lines]
    # Dash patterns that are not named all read as one.
    patterns = [
        (look, str(x._dash_pattern))
        for look, x in zip(looks, figure.axes[0].lines, strict=True)
    ]
    assert len(set(patterns)) == 12
    assert to_rgb(figure.axes[1].lines[0].get_color()) == looks[3][0]


def test_rates_have_intervals():
    points = {
        "ce": [(r, Estimate(1 - r, 0.1, 0.9 - r, 1.2 - r, 5)) for r in (0.2, 0.8)]
    }
    axes = figures.accuracy_by_rate({"symmetric": points}).axes[0]
    (drawn,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert list(drawn[0].get_xdata()) == [0.2, 0.8]
    ends = drawn[2][0].get_segments()[0][:, 1]
    assert ends.astype(float).tolist() == pytest.approx([0.7, 1.0])


def test_one_seed_has_a_point_without_an_interval():
    nothing = float("nan")
    points = {"ce": [(0.2, Estimate(0.5, nothing, nothing, nothing, 1))]}
    axes = figures.accuracy_by_rate({"symmetric": points}).axes[0]
    assert np.isfinite(axes.dataLim.get_points()).all()


def test_every_seed_is_a_point():
    shares = np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.7, 0.6])
    axes = figures.memorized_against_corrected({"a": {"ce": shares}}).axes[0]
    np.testing.assert_array_equal(axes.lines[-1].get_xydata(), np.transpose(shares))


def test_the_best_of_a_map_is_framed_and_the_chosen_has_a_ring():
    scores = np.array([[0.5, np.nan, 0.6], [0.7, 0.9, 0.8]])
    values = ((0.2, 0.4, 0.6), (1.2, 1.5))
    one = figures.Map("dal", ("q_start", "q_end"), values, scores, (2, 1))
    axes = figures.sensitivity([one]).axes[0]
    frame, ring = axes.lines
    assert (frame.get_xdata()[0], frame.get_ydata()[0]) == (1, 1)
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (2, 1)
    texts = sorted(text.get_text() for text in axes.texts)
    assert texts == [".500", ".600", ".700", ".800", ".900"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.2", "0.4", "0.6"]


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_same_figure_is_the_same_file(ending):
    def draw():
        figure = figures.accuracy_over_epochs({"a": {"ce": (EPOCHS, RISING)}})
        return figures.save(figure)[ending]

    assert draw() == draw()
