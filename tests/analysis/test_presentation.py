from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mner.analysis import (
    by_length,
    compare,
    errors,
    learning_curve,
    plot_attention,
    plot_calibration,
    plot_comparison,
    plot_confusion,
    plot_learning_curve,
    plot_length,
    plot_subsets,
    score,
)
from mner.analysis.attention_figure import printable
from tests.analysis_posts import post, random_posts

SYSTEMS = {"text only": random_posts(60, seed=1), "captions": random_posts(60, seed=2, noise=0.2)}
CURVE = {"text only": {0.1: [0.5, 0.55], 0.25: 0.6, 1: 0.8}, "captions": {0.1: 0.55, 0.25: 0.66, 1: 0.81}}


def figures():
    found = errors(SYSTEMS["captions"])
    comparison = compare(SYSTEMS, resamples=50)
    return {
        "length": plot_length({name: by_length(posts, (3, 6, 9), resamples=50) for name, posts in SYSTEMS.items()}),
        "one length": plot_length({"one": by_length(SYSTEMS["captions"], resamples=0)}),
        "curve": plot_learning_curve(learning_curve(CURVE)),
        "curve in posts": plot_learning_curve(learning_curve({"text": {400: 0.5, 4000: 0.8}})),
        "types": plot_subsets({n: score(p, resamples=50).loc["lenient"] for n, p in SYSTEMS.items()}, "Type"),
        "confusion": plot_confusion(found.confusion),
        "calibration": plot_calibration(found.calibration),
        "comparison": plot_comparison(comparison.scores, comparison.tests),
    }


def texts(figure):
    """Every visible text with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # Ticks beyond the limits have labels that are not drawn.
    hidden = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in shown]


@pytest.fixture(scope="module")
def drawn():
    return figures()


@pytest.mark.parametrize(
    "name", ["length", "one length", "curve", "curve in posts", "types", "confusion", "calibration", "comparison"]
)
def test_axes_are_named_with_units_and_labels_do_not_overlap(drawn, name):
    figure = drawn[name]
    named = [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text]
    assert len(named) >= 2
    assert any(unit in text for text in named for unit in ("%", "entities", "points"))
    boxes = texts(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert -1 <= box.x0 <= box.x1 <= width + 1, text
        assert -1 <= box.y0 <= box.y1 <= height + 1, text
    for (one, first), (two, second) in combinations(boxes, 2):
        assert not first.padded(-0.5).overlaps(second.padded(-0.5)), (one, two)


def test_values_are_drawn_in_percent(drawn):
    (text, captions) = drawn["curve"].axes[0].containers
    assert text[0].get_ydata() == pytest.approx([52.5, 60, 80])
    assert captions[0].get_ydata() == pytest.approx([55, 66, 81])
    assert "% of its posts" in drawn["curve"].axes[0].get_xlabel()
    assert "posts" in drawn["curve in posts"].axes[0].get_xlabel()


IMAGE = np.zeros((60, 100, 3), dtype=np.uint8)
POST = post(
    "Kim/B-PER saw $5 and $6 in New/B-LOC York/I-LOC \U0001f9ea", "Kim/B-LOC saw $5 and $6 in New York \U0001f9ea"
)


@pytest.mark.filterwarnings("error")
def test_attention_over_a_grid():
    weights = np.arange(49.0)
    figure = plot_attention(IMAGE, weights / weights.sum(), POST.words, POST.gold, POST.pred, query="Kim")
    shade = figure.axes[1].images[1]
    np.testing.assert_allclose(shade.get_array(), (weights / weights.sum()).reshape(7, 7))
    assert shade.get_extent() == [0, 100, 60, 0]
    found = [text for text, _ in texts(figure)]
    assert "Kim [PER]" in found
    assert "Kim [LOC]" in found
    assert "New York [LOC]" in found
    assert "attention of “Kim”" in found


def test_attention_over_boxes_labels_the_strongest():
    boxes = np.array(
        [[0, 0, 50, 30], [20, 10, 90, 55], [0, 0, 50, 30], [60, 30, 99, 59], [5, 35, 30, 58], [70, 2, 95, 20]]
    )
    figure = plot_attention(IMAGE, [0.4, 0.25, 0.15, 0.1, 0.06, 0.04], POST.words, None, POST.pred, boxes=boxes)
    axes = figure.axes[1]
    assert [p.get_bbox().extents.tolist() for p in axes.patches][-1] == [0, 0, 50, 30]  # the strongest on top
    labels = [t.get_text() for t in axes.texts]
    assert labels == ["40 %", "25 %", "15 %", "10 %", "6 %"]
    assert len({t.get_position() for t in axes.texts}) == 5
    assert any("no gold tags" in text for text, _ in texts(figure))


def test_attention_that_is_no_grid_is_refused():
    with pytest.raises(ValueError, match="square number"):
        plot_attention(IMAGE, np.ones(48), POST.words, POST.gold, POST.pred)
    with pytest.raises(ValueError, match="one weight a box"):
        plot_attention(IMAGE, np.ones(3), POST.words, POST.gold, POST.pred, boxes=np.ones((2, 4)))


def test_characters_that_the_font_lacks_become_boxes():
    assert printable("a\U0001f9eab") == "a▯b"
