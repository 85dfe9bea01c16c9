"""Training curves on the page and as a picture."""

import math
import re

import pytest

from star_rl.errors import StarError
from star_rl.report import curve_charts
from star_rl.report.curve_charts import line_chart, plot
from tests.report.logs import row, starts, write


def uprights(figure):
    """Return where dotted uprights stand, axes by axes."""
    return [[line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] for axes in figure.axes]


def test_names_are_escaped():
    assert not re.search(r"<[biu]>", line_chart("id", "<b>", {"<i>": [(1, 2.0)], "<s>": [(1, 3.0)]}, "<u>").svg)


def test_a_logarithmic_axis_leaves_out_values_that_are_not_above_zero():
    chart = line_chart("id", "t", {"s": [(1, 0.0), (2, 1e-6), (3, -1.0), (4, 1e-4)]}, log=True)
    dots, line = chart.figure.axes[0].lines
    assert len(dots.get_xdata()) == 6 and list(line.get_xdata()) == [2, 4]
    assert ">1e-5<" in chart.svg
    assert "no values" in line_chart("id", "t", {"s": [(1, 0.0)]}, log=True).svg


def test_shares_are_drawn_in_percent_from_0_to_100():
    chart = line_chart("id", "t", {"s": [(1, 0.25), (2, 0.5)]}, "%", percent=True)
    assert chart.figure.axes[0].get_ylim() == (0.0, 100.0)
    assert chart.rows == [["1", "25"], ["2", "50"]] and "25 at step 1" in chart.words


def test_a_long_curve_has_forty_rows_and_says_so():
    chart = line_chart("id", "t", {"s": [(step, 1.0) for step in range(1000)]})
    assert len(chart.rows) == 40 and chart.note == "40 of 1000 steps" and chart.rows[-1][0] == "999"


def test_a_resume_is_an_upright_before_its_step_and_only_inside_the_chart():
    chart = line_chart("a", "A", {"s": [(1, 1.0), (11, 2.0)]}, resumed=[6, 40])
    assert uprights(chart.figure) == [[5.5]] and "<title>resumed at step 6</title>" in chart.svg


def test_pictures_of_one_run_and_of_two(tmp_path):
    for name, base in (("be_fore", 0.0), ("$after$", 1.0)):
        write(
            tmp_path / name / "metrics.jsonl",
            [
                row(step, **{"critic/score/mean": base + math.sin(step), "training/rollout_probs_diff_max": 0.0})
                for step in range(1, 30)
            ],
        )
    one = plot(tmp_path / "be_fore", tmp_path / "out" / "one.png")
    assert one.read_bytes()[:4] == b"\x89PNG"
    runs = [tmp_path / "be_fore", tmp_path / "$after$", tmp_path / "be_fore"]
    two = plot(runs, tmp_path / "two.svg").read_text()
    assert "<svg" in two[:1000] and "$after$" in two and " be_fore" in two
    assert plot(runs, tmp_path / "again.svg").read_text() == two
    assert plot(runs, tmp_path / "two.pdf").read_bytes()[:4] == b"%PDF"


def test_the_curve_of_a_validation_is_drawn(tmp_path):
    write(tmp_path / "metrics.jsonl", [row(0, **{"val-core/books/acc/mean@1": 0.2})])
    assert "HR@1 in validation" in plot(tmp_path, tmp_path / "curves.svg").read_text()


def test_pictures_that_cannot_be(tmp_path):
    log = write(tmp_path / "metrics.jsonl", [row(1, other=1), row(2, **{"critic/score/mean": None})])
    with pytest.raises(StarError, match="no curve of GRPO"):
        plot(log, tmp_path / "x.png")
    with pytest.raises(StarError, match="does not name a picture"):
        plot(log, tmp_path / "x.txt")
    assert not (tmp_path / "x.png").exists()


def test_a_picture_marks_where_each_run_was_resumed(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        curve_charts, "picture", lambda logs, kept=curve_charts.picture: figures.append(kept(logs)) or figures[-1]
    )
    plot(starts(tmp_path / "a"), tmp_path / "one.png")
    assert uprights(figures[0])[:3] == [[10.5]] * 3  # reward, HR@1 and the histogram
    once = write(tmp_path / "b" / "metrics.jsonl", [row(1, **{"critic/score/mean": 1.0, "groups/successes/0": 1.0})])
    plot([once, tmp_path / "a"], tmp_path / "two.png")
    assert [place for own in uprights(figures[1]) for place in own] == [10.5] * 3
