"""Logs of verl and ms-swift, whole, torn, resumed."""

import pytest

from star_rl.errors import StarError
from star_rl.report.curves import (
    finite,
    grpo_curves,
    grpo_report,
    mean_of,
    read_metrics,
    sft_curves,
    smooth,
    success_histogram,
    window_of,
)
from tests.report.logs import row, starts, write


def test_both_forms_of_a_line(tmp_path):
    nested = write(tmp_path / "a.jsonl", [row(1, x=1.0), row(2, x=2)])
    flat = write(tmp_path / "b.jsonl", [{"step": 1, "x": 1.0}, {"step": 2, "x": 2}])
    assert read_metrics(nested).curves["x"] == read_metrics(flat).curves["x"] == [(1.0, 1.0), (2.0, 2.0)]


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    log = write(
        tmp_path / "metrics.jsonl",
        [
            row(1, x=1),
            '{"step": 2, "da',
            "\n",
            "[1]\n",
            "\x00\n",
            {"x": 5},
            row("three", x=3),
            row(None, x=3),
            row(4, x=4, s="no"),
            '{"step": 5, "data": {"x": 5}',
        ],
    )
    assert read_metrics(log).curves == {"x": [(1.0, 1.0), (4.0, 4.0)]}


def test_numbers_that_are_none_are_kept_as_gaps(tmp_path):
    log = write(
        tmp_path / "metrics.jsonl",
        [row(1, x=None), '{"step": 2, "data": {"x": NaN}}\n', row(3, x=3), row(4, x=10**400)],
    )
    curve = read_metrics(log).curves["x"]
    assert curve == [(1.0, None), (2.0, None), (3.0, 3.0), (4.0, None)]
    assert finite(curve) == [(3.0, 3.0)]


def test_a_resumed_run_holds_what_the_later_start_logged(tmp_path):
    write(tmp_path / "grpo/metrics.jsonl", [row(9, x=9)])
    write(tmp_path / "grpo/attempts/001.jsonl", [row(1, x=1), row(2, x=2), row(3, x=3), row(4, x=4), row(9, x=9)])
    write(tmp_path / "grpo/attempts/002.jsonl", [])
    write(tmp_path / "grpo/attempts/003.jsonl", [row(3, x=30), row(4, x=40)])
    metrics = read_metrics(tmp_path)
    assert metrics.curves["x"] == [(1.0, 1.0), (2.0, 2.0), (3.0, 30.0), (4.0, 40.0)]
    assert metrics.resumed == [3.0]


def test_a_stage_moved_aside_is_not_the_run(tmp_path):
    write(tmp_path / "grpo/metrics.jsonl", [row(1, x=1)])
    write(tmp_path / "grpo.old-20260101-000000/metrics.jsonl", [row(9, x=9)])
    assert read_metrics(tmp_path).curves["x"] == [(1.0, 1.0)]
    assert read_metrics(tmp_path / "grpo.old-20260101-000000").curves["x"] == [(9.0, 9.0)]


def test_a_validation_line_at_the_resumed_step_voids_nothing_of_it(tmp_path):
    write(tmp_path / "attempts/001.jsonl", [row(1, x=1), row(2, x=2)])
    write(tmp_path / "attempts/002.jsonl", [row(2, val=5), row(3, x=3)])
    assert read_metrics(tmp_path).curves["x"] == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


def test_starts_come_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10):
        write(tmp_path / f"attempts/{number}.jsonl", [row(number, x=number)])
    assert [value for _, value in read_metrics(tmp_path).curves["x"]] == [1.0, 2.0, 10.0]


def test_a_run_without_a_log_is_named(tmp_path):
    with pytest.raises(StarError, match="there is no metrics"):
        read_metrics(tmp_path)
    with pytest.raises(StarError, match="there is no file"):
        read_metrics([tmp_path / "gone.jsonl"])


def test_a_validation_is_a_curve_over_its_sources(tmp_path):
    logged = {"val-core/books/acc/mean@1": 0.2, "val-core/films/acc/mean@1": 0.4, "val-aux/books/hr_avg/mean@1": 0.5}
    beside = {"val-aux/books/acc_success_only/mean@1": 1.0, "val-aux/num_turns/mean": 4.0}
    write(tmp_path / "metrics.jsonl", [row(0, **logged, **beside), row(1, x=1), row(5, **logged)])
    curves = grpo_curves(read_metrics(tmp_path).curves)
    assert curves["valid_hr1"] == [(0.0, pytest.approx(0.3)), (5.0, pytest.approx(0.3))]
    assert curves["valid_hr_avg"] == [(0.0, 0.5), (5.0, 0.5)]


def test_names_of_the_log_become_those_of_the_report(tmp_path):
    rows = [
        row(
            step,
            **{
                "critic/score/mean": step / 10,
                "reward/acc/mean": 0.25,
                "reward/format/mean": 0.5,
                "rollout/tool_calls/mean": 2.0,
                "rollout/tool_calls/sum": 16.0,
                "training/rollout_probs_diff_max": step * 1e-6,
                "actor/entropy": 1.0,
            },
        )
        for step in range(1, 11)
    ]
    write(tmp_path / "metrics.jsonl", rows)
    report = grpo_report(tmp_path, {"easy": 3})
    assert report.first5 == pytest.approx(0.3)
    assert report.last5 == pytest.approx(0.8)
    assert report.tool_calls_total == 160
    assert report.probs_diff_max == pytest.approx(1e-5)
    assert report.curves["hr1"][0] == (1.0, 0.25)
    assert report.curves["format"][0] == (1.0, 0.75), "the mean of +1 and -1 as a share"
    assert report.set == {"easy": 3}
    assert "kl" not in report.curves


def test_nothing_logged_is_nothing_reported(tmp_path):
    write(tmp_path / "metrics.jsonl", [row(1, other=1)])
    report = grpo_report(tmp_path)
    assert (report.curves, report.first5, report.tool_calls_total, report.probs_diff_max) == ({}, None, None, None)
    assert grpo_curves({}) == {}


def test_ms_swift_log(tmp_path):
    write(
        tmp_path / "sft/v0/logging.jsonl",
        [
            {"loss": 6.5, "token_acc": 0.1, "grad_norm": 3, "global_step/max_steps": "1/100", "elapsed_time": "0s"},
            {"loss": 5.5, "token_acc": 0.2, "grad_norm": 2, "global_step/max_steps": "10/100"},
            {"train_loss": 6.0, "global_step/max_steps": "10/100"},
            {"global_step": 10, "log_history": [{"loss": 1}], "best_metric": None},
        ],
    )
    curves = sft_curves(tmp_path)
    assert curves["loss"] == [(1.0, 6.5), (10.0, 5.5)]
    assert set(curves) == {"loss", "token_acc", "grad_norm"}


def test_mean_of_ends():
    curve = [(step, float(step)) for step in range(1, 8)] + [(8, None)]
    assert mean_of(curve, 5) == 3.0
    assert mean_of(curve, -5) == 5.0
    assert mean_of([(1, 2.0)], 5) == 2.0
    assert mean_of([(1, None)], 5) is None


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 40, 1000])
def test_smoothing_keeps_a_straight_line(count):
    line = [(float(step), 3.0 * step - 5) for step in range(count)]
    smoothed = smooth(line)
    assert [step for step, _ in smoothed] == [step for step, _ in line]
    assert [value for _, value in smoothed] == pytest.approx([value for _, value in line])
    assert window_of(count) % 2 == 1


def test_smoothing_stays_between_the_points():
    points = [(float(step), float(step % 2)) for step in range(20)]
    assert all(0 <= value <= 1 for _, value in smooth(points))


def test_successes_of_the_groups_are_a_histogram_a_step(tmp_path):
    steps, shares = success_histogram(read_metrics(starts(tmp_path)).curves)
    assert steps == [float(step) for step in range(1, 21)] and len(shares) == 9
    assert [sum(column) for column in zip(*shares, strict=True)] == [1.0] * 20
    assert success_histogram({}) == ([], [])


def test_the_report_knows_where_a_run_went_on(tmp_path):
    assert grpo_report(starts(tmp_path)).resumed == [11.0]
