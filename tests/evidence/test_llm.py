import asyncio
import contextlib
import json

import pytest

from star_rl.errors import StarError
from star_rl.evidence import Catalogue, Template
from star_rl.evidence.llm import categories_in
from star_rl.evidence.model import Neighbour
from star_rl.records import Item
from tests.evidence import evidence_world as world

NEAR = [Neighbour(f"i{number}", 1 / (number + 1), number + 1) for number in range(10)]


def group(**over):
    return {"name": "Kind", "summary": "Alike.", "item_ids": ["i1", "i2"], "why": "Fits.", **over}


def said(*groups):
    return json.dumps({"categories": list(groups)})


def test_a_good_answer_is_read_whatever_stands_around_it():
    for text in (
        said(group()),
        f"<think>{{a}} b</think>{said(group())}",
        f"```json\n{said(group())}\n```",
        f"Here: {said(group())} Bye.",
    ):
        (category,) = categories_in(text, "UserCF", NEAR)
        assert (category.name, category.item_ids, category.why) == ("Kind", ("i1", "i2"), "Fits.")
        assert category.count == 2 and category.support == 5
    assert categories_in(said(group(why="")), "ItemCF", NEAR)[0].why == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no JSON object"),
        ("no", "no JSON object"),
        ("} {", "no JSON object"),
        ("{]}", "not valid JSON"),
        ("{" * 100_000 + "}", "not valid JSON"),
        ('{"categories": ' + "[" * 100_000 + "}", ""),
        ("{}", "categories"),
        (said(), "categories"),
        (said(*[group()] * 6), "categories"),
        (said("x"), "categories.0"),
        (said(group(name="")), "name"),
        (said(group(name=3)), "name"),
        (said(group(name="\ud800")), "name"),
        (said(group(name=" \n")), "must say something"),
        (said(group(name="x" * 81)), "name"),
        (said(group(summary="x" * 401)), "summary"),
        (said(group(item_ids=[])), "item_ids"),
        (said(group(item_ids=["i1", "i2", "i3", "i4", "i5", "i6"])), "item_ids"),
        (said(group(item_ids=["i99"])), "'i99' is not in the list"),
        (said(group(item_ids=["i1", "i1"])), "'i1' is named twice"),
        (said(group(), group()), "'i1' is named twice"),
        (said(group(item_ids=[1])), "item_ids"),
        (said(group(why="")), "why"),
    ],
)
def test_a_bad_answer_is_a_list_of_faults(text, fault):
    faults = categories_in(text, "UserCF", NEAR)
    assert isinstance(faults, list) and fault in " ".join(faults)


def test_tags_in_an_answer_are_defused():
    (category,) = categories_in(said(group(name="</tool_response><recommend>")), "UserCF", NEAR)
    assert category.name == "‹/tool_response>‹recommend>"


class Scripted:
    """Answers one after another: a text, or the HTTP status of a failure."""

    def __init__(self, answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, messages):
        self.asked.append(messages)
        return self.answers.pop(0)


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def make(tmp_path, runner):
    with contextlib.ExitStack() as stack:

        def make(*answers, **options):
            chat = Scripted(answers)
            url = stack.enter_context(world.serving(chat))
            films = {row.id: Item(row.id, f"Film {row.id}", ("Drama",)) for row in NEAR}
            model = world.language_model(url, tmp_path / "replies.db", Template(Catalogue(films)), **options)
            stack.callback(lambda: runner.run(model.chat.close()))
            return chat, model

        yield make


@pytest.fixture
def ask(runner):
    return lambda model, tool="UserCF", key="u1", near=NEAR: runner.run(model.words(tool, key, near, ["i1"]))


def test_an_answer_becomes_words(make, ask):
    chat, model = make(said(group(item_ids=["i3"])), price_prompt=1e6, price_completion=2e6)
    words = ask(model)
    assert words.outcome == "llm" and "1. Kind: Alike. Why it fits: Fits." in words.text
    assert 'items: i3 "Film i3"' in words.text
    system, user = (message["content"] for message in chat.asked[0])
    assert "JSON" in system and "- i1 | Film i1 | Drama" in user and "- i0 | Film i0 | Drama | people 1 | tie 1" in user
    figures = model.figures()
    assert figures["attempts"] == 1 and figures["outcomes"] == {"llm": 1} and figures["cost"] == 180
    assert figures["cache"] == {"replies": 1, "prompt_tokens": 100, "completion_tokens": 40, "cost": 180}


def test_a_bad_answer_is_asked_again_once(make, ask):
    chat, model = make("rubbish", said(group()))
    assert ask(model).outcome == "repaired"
    assert chat.asked[1][2] == {"role": "assistant", "content": "rubbish"}
    assert "no JSON object" in chat.asked[1][3]["content"]


def test_two_bad_answers_leave_it_to_the_template(make, ask):
    _, model = make("rubbish", said(group(item_ids=["gone"])))
    words = ask(model)
    assert words.outcome == "fallback" and words.text == model.template("UserCF", "u1", NEAR, ["i1"]).text
    assert model.figures()["outcomes"] == {"fallback": 1}


def test_no_neighbours_cost_nothing(make, ask):
    chat, model = make()
    assert ask(model, near=[]).outcome == "template" and not chat.asked


def test_what_is_paid_is_not_asked_again(make, ask):
    _, model = make("rubbish", said(group()))
    first = ask(model)
    chat, model = make()
    assert ask(model) == first and not chat.asked
    assert model.figures()["cached"] == 2 and model.figures()["attempts"] == 0
    assert model.figures()["cache"]["replies"] == 2


def test_calls_that_fail_are_tried_again_and_counted(make, ask):
    _, model = make(503, 429, said(group()), retries=2)
    assert ask(model).outcome == "llm"
    assert model.figures()["faults"] == {"http_429": 1, "http_503": 1}
    _, model = make(503, 503, retries=1)
    assert ask(model, key="u2", near=NEAR[:5]).outcome == "fallback"


def test_a_dead_endpoint_stops_the_run(make, ask):
    _, model = make(503, 503, 503, retries=0, patience=3)
    assert [ask(model, near=NEAR[:n]).outcome for n in (5, 6)] == ["fallback"] * 2
    with pytest.raises(StarError, match=r"3 calls in a row failed \(http_503: .*nothing paid is lost"):
        ask(model, near=NEAR[:7])


def test_a_refused_key_stops_at_once(make, ask):
    _, model = make(401, retries=5)
    with pytest.raises(StarError, match="wants a key"):
        ask(model)


def test_foreign_text_in_the_prompt_is_defused(make, ask):
    chat, model = make(said(group(item_ids=["</plan>"])))
    ask(model, near=[Neighbour("</plan>", 1.0, 1)])
    assert "</plan>" not in chat.asked[0][1]["content"]


def test_a_dry_run_prices_the_job(make, ask):
    chat, model = make(price_prompt=1.0, price_completion=10.0)
    jobs = [("UserCF", f"u{n}", NEAR[: n % 10], ["i1"]) for n in range(100)]
    found = model.estimate(jobs, 1000, completion=300)
    assert found["keys"] == 1000 and found["sampled"] == 100 and found["paid_already"] == 0
    assert found["completion_tokens"] == 900 * 300 and found["prompt_tokens"] > 100_000
    assert found["cost"] == pytest.approx((found["prompt_tokens"] + 10 * found["completion_tokens"]) / 1e6, abs=1e-3)
    assert not chat.asked
    assert model.estimate([], 0)["cost"] == 0


def test_a_patience_that_makes_no_sense(make):
    with pytest.raises(StarError, match="patience is 0"):
        make(patience=0)
