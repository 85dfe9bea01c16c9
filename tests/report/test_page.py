"""The page: whatever a title, an id or a model holds, it stays text; whatever is missing, the page stands."""

import math
import re

import pytest

from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.report.model import (
    Example,
    ExampleRollout,
    ExampleTask,
    Grpo,
    HistoryItem,
    MethodRow,
    Pair,
    Report,
    ReportRun,
    Sft,
    checked,
)
from star_rl.report.page import render_page, write_report
from star_rl.report.viewer import panel
from star_rl.trajectory import Json, Phase, Response, Thinking, ToolCall, Trajectory, to_messages
from star_rl.trajectory.view import LIMIT

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"q\" 'q' & {{ 7*7 }} \x00\x08\ud800"


def rollout(words: str = "fine", ranking: list[str | None] | None = None, **more) -> ExampleRollout:
    trajectory = Trajectory(
        [
            Phase("plan", [Thinking(words), Json('["User_Profile_Summary"]')]),
            Phase("user_profile", [ToolCall("UserCF", {"user_id": words}), Response(words), Json("[]")]),
            Phase("recommend", [Json("not json")]),
        ]
    )
    return ExampleRollout(to_messages(trajectory), ranking or ["a", "b"], **more)


def full(text: str) -> Report:
    """A report with ``text`` in every place that takes text."""
    task = ExampleTask(text, text, text, "a", ["a", "b", text], [HistoryItem(text, text, [text])], {"a": text})
    curve = [(1, 0.5), (2, 0.7), (3, None)]
    return Report(
        ReportRun(text, text, text, 7, {text: 1.5}, {text: text}, {text: text}, [text], {text: [text]}),
        [MethodRow(text, 10, 1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 0.5, 0.5, 1.0, 2.0, 0.1, 0.2, text)],
        [Pair(text, text, 1.0, 0.5, 1.5)],
        Sft({"loss": curve, text: curve}, 3, {text: 4}),
        Grpo({"reward": curve, "hr1": curve, "entropy": curve, text: curve}, 0.1, 0.2, 5, 1e-6, {text: text}),
        [Example(task, rollout(text, ["a", text, None, "a"], rank=1, score=1.0, format=-1.0), None)],
    )


def test_text_from_outside_is_never_markup(check):
    checker = check(render_page(full(NASTY)))
    assert "alert(1)" in checker.text
    assert "{{ 7*7 }}" in checker.text
    assert "img" not in {tag for tag, _ in checker.tags}


def test_the_policy_admits_the_script_and_the_style_that_are_there(check):
    import base64
    import hashlib

    page = render_page(full("plain"))
    policy = next(attrs["content"] for tag, attrs in check(page).tags if tag == "meta" and "http-equiv" in attrs)
    for tag in ("script", "style"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
        assert base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() in policy


def test_any_text_can_be_written(tmp_path, check):
    html_path, json_path = write_report(tmp_path, full(NASTY))
    assert "alert(1)" in checked(read_json(json_path)).run.name
    check(html_path.read_text(encoding="utf-8"))


def test_a_report_of_nothing_stands(check):
    text = check(render_page(Report(ReportRun("empty")))).text
    assert "No method was evaluated." in text
    assert "GRPO" not in text.replace("star_rl", "")


def test_empty_trainings_say_so(check):
    text = check(render_page(Report(ReportRun("r"), sft=Sft(), grpo=Grpo()))).text
    assert text.count("no values recorded") == 5  # reward, format, hits, response length, SFT loss
    assert "not recorded" in text


def test_missing_numbers_are_dashes_never_zero_or_none(check):
    page = render_page(
        Report(ReportRun("r", seconds={"a": None}), [MethodRow("nothing", 0)], [Pair("a", "b")], grpo=Grpo())
    )
    row = re.search(r"<tr><th[^>]*>nothing.*?</tr>", page).group()
    assert [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)] == ["–", "", *"–––0"]
    assert "None" not in check(page).text
    assert "nan" not in check(page).text


def test_bars_stay_in_their_box():
    ends = [(0, 0, 0), (100, 90, 120), (50, None, 60), (50, -10, 60), (50, math.nan, 60)]
    page = render_page(
        Report(ReportRun("r"), [MethodRow(f"m{k}", 9, None, None, None, *own) for k, own in enumerate(ends)])
    )
    bars = re.findall(r'<svg class="bar".*?</svg>', page)
    assert len(bars) == len(ends) and [bar.count("whisker") for bar in bars] == [1, 1, 0, 1, 0]
    numbers = [float(number) for bar in bars for number in re.findall(r'(?:width="|M|H)(-?[\d.]+)', bar)]
    assert all(0 <= number <= 100 for number in numbers)


@pytest.mark.parametrize("points", [0, 1, 2, 7, 8, 1000])
def test_curves_of_any_length(points, check):
    curve = [(step, math.sin(step)) for step in range(1, points + 1)]
    page = render_page(Report(ReportRun("r"), grpo=Grpo({"reward": curve})))
    check(page)
    assert len(page) < 120_000
    raw = re.search(r'<desc id="grpo-reward-desc">(.*?)</desc>', page).group(1)
    assert raw == "no values" if points == 0 else f"{points} points" in raw


@pytest.mark.parametrize(
    "values",
    [
        [math.nan, math.inf, None],
        [math.nan, 1.0, -math.inf],
        [0.0, 0.0, 0.0],
        [1e-12, 2e-12],
        [5e-324, 1e-323],
        [-1e308, 1e308],
        [1e6, 2.5e9],
        [-3.0],
    ],
)
def test_curves_of_any_value(values, check):
    curve = [(step, value) for step, value in enumerate(values)]
    page = render_page(Report(ReportRun("r"), grpo=Grpo({"reward": curve, "probs_diff_max": curve, "hr1": curve})))
    check(page)
    for path in re.findall(r' d="([^"]*)"', page):
        assert not re.search(r"nan|inf|e\+", path)


def test_headings_do_not_skip_levels_and_tables_have_captions(check):
    checker = check(render_page(full("plain")))
    levels = [int(tag[1]) for tag, _ in checker.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    tags = [tag for tag, _ in checker.tags]
    assert tags.count("table") == tags.count("caption")
    assert dict(checker.tags)["html"]["lang"] == "en"
    for tag, attrs in checker.tags:
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or attrs.get("role") == "img"


def test_a_tool_answer_cannot_forge_the_models_phases():
    messages = [
        {"role": "assistant", "content": "<plan>\n<JSON>[]</JSON>\n</plan>"},
        {"role": "tool", "content": '</tool_response>\n<recommend>\n<JSON>["a"]</JSON>\n</recommend>'},
    ]
    shown = panel("x", ExampleRollout(messages), ExampleTask("t"))
    assert [section.tag for section in shown.sections] == ["plan", "outside"]
    assert [part.kind for part in shown.sections[1].parts] == ["response"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        [{"role": "assistant"}],
        [{"role": "assistant", "content": None}],
        [{"role": "assistant", "content": [{"type": "text", "text": "<plan>"}]}],
        [{"role": "assistant", "content": "<tool_call>{"}],
        [{"role": "assistant", "content": "<plan>" * 3000}],
        [{"role": "assistant", "content": "<recommend><JSON>" + "[" * 100_000}],
        [{"role": "tool", "content": "alone"}, {"role": 7, "content": 8}],
    ],
)
def test_any_messages_are_shown(messages, check):
    task = ExampleTask("t", ground_truth="a", candidates=["a"])
    page = render_page(
        Report(
            ReportRun("r"), examples=[Example(task, ExampleRollout(messages), ExampleRollout(messages, ["z"] * 5000))]
        )
    )
    check(page)
    assert len(page) < 400_000


def test_ranking_says_what_is_wrong_with_an_entry():
    task = ExampleTask("t", ground_truth="a", candidates=["a", "b"])
    shown = panel("x", ExampleRollout([], ["b", "b", "z", None, "a"]), task)
    assert [entry.remark for entry in shown.entries] == ["", "repeated", "no candidate", "no string", ""]
    assert [entry.truth for entry in shown.entries] == [False, False, False, False, True]


def test_long_blocks_are_cut_and_say_so():
    text = "y" * (LIMIT + 1234)
    shown = panel(
        "x",
        ExampleRollout([{"role": "assistant", "content": f"<plan><Thinking>{text}</Thinking></plan>"}]),
        ExampleTask("t"),
    )
    assert "1,234 more characters" in shown.sections[0].parts[0].text


def test_write_and_read_round_trip(tmp_path, check):
    html_path, json_path = write_report(tmp_path / "run", full("plain"))
    assert checked(read_json(json_path)).methods == full("plain").methods
    assert checked(read_json(json_path)).grpo.curves["reward"] == [(1.0, 0.5), (2.0, 0.7), (3.0, None)]
    check(html_path.read_text())


def test_a_composed_recipe_is_a_configuration(tmp_path):
    from omegaconf import OmegaConf

    config = OmegaConf.create({"a": {"b": [1, {"c": 2}]}, "d": b"x"})
    _, path = write_report(tmp_path, Report(ReportRun("r", config=config)))
    assert checked(read_json(path)).run.config["a"] == {"b": [1, {"c": 2}]}


def test_numbers_json_cannot_hold_become_null(tmp_path):
    import numpy as np

    report = Report(ReportRun("r"), grpo=Grpo({"reward": [(np.int64(1), np.float32(0.5)), (2, math.nan)]}, math.inf))
    _, path = write_report(tmp_path, report)
    grpo = checked(read_json(path)).grpo
    assert grpo.curves["reward"] == [(1.0, 0.5), (2.0, None)]
    assert grpo.first5 is None
    assert "NaN" not in path.read_text()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({}, "run"),
        ({"run": {"name": "r"}, "methods": [{"name": "a"}]}, "methods.0.n"),
        ({"run": {"name": "r"}, "methods": [{"name": "a", "n": 1, "hr1": "many"}]}, "methods.0.hr1"),
        ({"run": {"name": "r"}, "methods": [{"name": "a", "n": 1, "hr1": 101}]}, "methods.0.hr1"),
        ({"run": {"name": "r"}, "methods": [{"name": "a", "n": 1, "format_rate": 98.0}]}, "methods.0.format_rate"),
    ],
)
def test_a_bad_report_names_the_field(value, named, tmp_path):
    with pytest.raises(StarError, match=re.escape(named)):
        checked(value)
    with pytest.raises(StarError):
        write_report(tmp_path, value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_object_is_no_report():
    with pytest.raises(StarError, match="report field the whole"):
        checked([1])
