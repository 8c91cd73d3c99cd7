"""The figure of a data set shows what `describe()` counted."""

import json

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import report

pytest.importorskip("matplotlib")


def described(timestamps):
    rng = np.random.default_rng(0)
    data = kdr.RetrievalDataset.from_interactions(
        rng.integers(0, 40, 500),
        rng.integers(0, 30, 500) ** 2,
        timestamps=timestamps,
        split="random" if timestamps is None else "by_time",
    )
    return json.loads(json.dumps(data.describe().to_dict()))


@pytest.mark.filterwarnings("ignore:.*also in the train part")
@pytest.mark.parametrize("start", [0, 1_700_000_000])
def test_curves_and_bars_are_the_figures(start, tmp_path):
    told = described(start + 3600 * np.arange(500))
    path = tmp_path / "data.png"
    tail, users, time = report.draw_data(told, path).axes
    assert path.stat().st_size > 10_000
    line = tail.lines[0]
    np.testing.assert_allclose(line.get_data(), told["long_tail"]["curve"])
    heights = [bar.get_height() for bar in users.patches]
    assert sum(heights) == told["num_users"]
    totals = {
        text.get_text(): sum(bar.get_height() for bar in bars)
        for text, bars in zip(
            time.get_legend().get_texts(), time.containers, strict=True
        )
    }
    assert totals == {
        part: size["num_interactions"] for part, size in told["parts"].items()
    }
    # Stacked and side by side: no bar hides another.
    bars = [bar for bars in time.containers for bar in bars]
    assert max(bar.get_y() + bar.get_height() for bar in bars) == max(
        map(sum, zip(*told["time"]["counts"].values(), strict=True))
    )
    lefts = [bar.get_x() for bar in time.containers[0]]
    assert (np.diff(lefts) > 0).all()


@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_without_timestamps_the_figure_says_so(tmp_path):
    figure = report.draw_data(described(None), tmp_path / "data.pdf")
    *_, time = figure.axes
    assert [text.get_text() for text in time.texts] == ["no timestamps"]
    assert not time.patches


def test_one_interaction_is_drawn(tmp_path):
    data = kdr.RetrievalDataset.from_interactions(
        ["ann"], ["tea"], timestamps=[5], test_fraction=0, validation_fraction=0
    )
    report.draw_data(data.describe().to_dict(), tmp_path / "data.png")
