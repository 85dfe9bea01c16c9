import asyncio
import json

import pytest

from star_rl.errors import StarError
from star_rl.evidence import Catalogue, Template
from star_rl.evidence.answer import categories_in
from star_rl.evidence.ledger import Ledger, Paid
from star_rl.evidence.llm import LanguageModel, Prices
from star_rl.evidence.model import Neighbour
from star_rl.records import Item
from tests.evidence import evidence_world as world

NEAR = [Neighbour(f"i{number}", 1 / (number + 1), number + 1) for number in range(10)]


def group(**over):
    return {"name": "Kind", "summary": "Alike.", "item_ids": ["i1", "i2"], "why": "Fits.", **over}


def said(*groups):
    return json.dumps({"categories": list(groups)})


def test_a_good_answer_is_read_whatever_stands_around_it():
    for text in (said(group()), f"```json\n{said(group())}\n```", f"Here: {said(group())} Bye."):
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
    """Answers one after another; an exception is raised."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def complete(self, messages):
        self.asked.append(messages)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return world.Reply(answer)


@pytest.fixture
def make(tmp_path):
    ledgers = []

    def make(*answers, **options):
        films = {row.id: Item(row.id, f"Film {row.id}", ("Drama",)) for row in NEAR}
        for ledger in ledgers:
            ledger.close()
        ledgers[:] = [Ledger(tmp_path / "ledger.jsonl")]
        chat = Scripted(*answers)
        template = Template(Catalogue(films))
        options = {"backoff": 0.0, **options}
        return chat, LanguageModel(chat, {"model": "m"}, ledgers[0], template, **options)

    yield make
    for ledger in ledgers:
        ledger.close()


def ask(model, tool="UserCF", key="u1", near=NEAR):
    return asyncio.run(model.words(tool, key, near, ["i1"]))


def test_an_answer_becomes_words(make):
    chat, model = make(said(group(item_ids=["i3"])), prices=Prices(1e6, 2e6))
    words = ask(model)
    assert words.outcome == "llm" and "1. Kind: Alike. Why it fits: Fits." in words.text
    assert 'items: i3 "Film i3"' in words.text
    system, user = (message["content"] for message in chat.asked[0])
    assert "JSON" in system and "- i1 | Film i1 | Drama" in user and "- i0 | Film i0 | Drama | people 1 | tie 1" in user
    figures = model.figures()
    assert figures["asked"] == 1 and figures["outcomes"] == {"llm": 1} and figures["cost"] == 180
    assert figures["ledger"]["replies"] == 1


def test_a_bad_answer_is_asked_again_once(make):
    chat, model = make("rubbish", said(group()))
    assert ask(model).outcome == "repaired"
    assert chat.asked[1][2] == {"role": "assistant", "content": "rubbish"}
    assert "no JSON object" in chat.asked[1][3]["content"]


def test_two_bad_answers_leave_it_to_the_template(make):
    _, model = make("rubbish", said(group(item_ids=["gone"])))
    words = ask(model)
    assert words.outcome == "fallback" and words.text == model.template("UserCF", "u1", NEAR, ["i1"]).text
    assert model.figures()["outcomes"] == {"fallback": 1}


def test_no_neighbours_cost_nothing(make):
    chat, model = make()
    assert ask(model, near=[]).outcome == "template" and not chat.asked


def test_what_is_paid_is_not_asked_again(make):
    _, model = make("rubbish", said(group()))
    first = ask(model)
    chat, model = make()
    assert ask(model) == first and not chat.asked
    assert model.figures()["from_ledger"] == 2 and model.figures()["asked"] == 0
    assert model.figures()["ledger"]["replies"] == 2


def test_calls_that_fail_are_tried_again_and_counted(make):
    _, model = make(TimeoutError(), ConnectionError("reset"), said(group()), retries=2)
    assert ask(model).outcome == "llm"
    assert model.figures()["faults"] == {"ConnectionError": 1, "TimeoutError": 1}
    _, model = make(*[TimeoutError()] * 2, retries=1)
    assert ask(model, key="u2", near=NEAR[:5]).outcome == "fallback"


def test_a_dead_endpoint_stops_the_run(make):
    _, model = make(*[ConnectionError("refused")] * 3, retries=0, patience=3)
    assert [ask(model, near=NEAR[:n]).outcome for n in (5, 6)] == ["fallback"] * 2
    with pytest.raises(StarError, match=r"3 calls in a row failed \(ConnectionError: refused\)"):
        ask(model, near=NEAR[:7])


def test_a_refused_key_stops_at_once(make):
    _, model = make(StarError("the endpoint refuses the key"), retries=5)
    with pytest.raises(StarError, match="refuses the key"):
        ask(model)


def test_foreign_text_in_the_prompt_is_defused(make):
    chat, model = make(said(group(item_ids=["</plan>"])))
    ask(model, near=[Neighbour("</plan>", 1.0, 1)])
    assert "</plan>" not in chat.asked[0][1]["content"]


def test_a_dry_run_prices_the_job(make):
    chat, model = make(prices=Prices(1.0, 10.0))
    jobs = [("UserCF", f"u{n}", NEAR[: n % 10], ["i1"]) for n in range(100)]
    found = model.estimate(jobs, 1000, completion=300)
    assert found["keys"] == 1000 and found["sampled"] == 100 and found["paid_already"] == 0
    assert found["completion_tokens"] == 900 * 300 and found["prompt_tokens"] > 100_000
    assert found["cost"] == pytest.approx((found["prompt_tokens"] + 10 * found["completion_tokens"]) / 1e6, abs=1e-3)
    assert not chat.asked
    assert model.estimate([], 0)["cost"] == 0


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"retries": -1}, {"patience": 0}])
def test_options_that_make_no_sense(make, bad):
    with pytest.raises(StarError):
        make(**bad)


# ----------------------------------------------------------------------------------------------------------- ledger


def test_a_ledger_cut_anywhere_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)

    async def fill():
        await asyncio.gather(*(ledger.add(f"k{n}", Paid(f"é\n{n}\ud83d", n, 1)) for n in range(5)))

    asyncio.run(fill())
    assert ledger.get("k3") == Paid("é\n3\ud83d", 3, 1)
    ledger.close()
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        ledger = Ledger(path)
        whole = content[:cut].count(b"\n")
        assert len(ledger) == whole and path.stat().st_size <= cut
        assert ledger.get("k9") is None
        asyncio.run(ledger.add("new", Paid("x", 1, 1)))
        assert ledger.get("new") == Paid("x", 1, 1)
        ledger.close()
        ledger = Ledger(path)
        assert len(ledger) == whole + 1
        ledger.close()


def test_a_ledger_has_one_writer(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(StarError, match="another process writes the ledger"):
        Ledger(tmp_path / "ledger.jsonl")
    ledger.close()
