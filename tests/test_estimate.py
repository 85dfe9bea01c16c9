"""The cost of a teaching job before it starts: from the prompts alone, from runs, from cached replies."""

import asyncio
import copy
import threading
from dataclasses import asdict, replace

import pytest

from star_rl.chat.cache import Cache
from star_rl.data_builders import teach
from star_rl.errors import StarError
from star_rl.estimate import estimate, estimate_stage
from star_rl.files import write_jsonl
from star_rl.mars import identity_of, to_json
from star_rl.mars.record import run_of
from star_rl.pipeline.options import Recipe
from star_rl.pipeline.stage import Context
from star_rl.prompts import PromptOptions, estimate_tokens
from star_rl.run import Run
from tests.chat import endpoint
from tests.fakes import World, star_rl


class Tabled(World):
    """The small world as a run."""

    prompt, length = PromptOptions(), staticmethod(estimate_tokens)

    def toolbox(self, case):
        return self.tools(case)


def config(**llm):
    made = asdict(Recipe())
    made["teacher"]["options"] = {"llm": llm} if llm else {}
    return made


def priced(tmp_path, passes=4, tasks=None, **options):
    world = Tabled()
    return estimate(world, options.pop("config", config()), tasks or world.tasks, passes, tmp_path, **options)


def made_runs(count, **cost):
    """Runs of the rules, with the calls and tokens that a model would have had."""
    world = World()
    team = world.team()
    for task in world.tasks[:count]:
        outcome = asyncio.run(team.run(world.case(task)))
        for name, value in cost.items():
            setattr(outcome.steps[0], name, value)
        outcome.seconds = 2.0
        yield to_json(run_of(task, 0, outcome, identity_of(team, {}, "m")))


def test_the_prompts_alone_give_calls_and_tokens_of_every_pass(tmp_path):
    one, four = priced(tmp_path, passes=1), priced(tmp_path, passes=4)
    assert (four.runs, four.found) == (160, 0) and four.calls == 4 * one.calls
    assert four.read == pytest.approx(4 * one.read, abs=4) and four.written == pytest.approx(4 * one.written, abs=4)
    assert 5 <= one.calls / one.runs <= 12 and one.read > 10 * one.written
    assert four.cost is None and four.hours is None
    assert "--prices IN OUT" in four.text() and "--rate" in four.text() and "40 tasks" in four.text()


def test_price_and_time_follow_from_the_tokens(tmp_path):
    made = priced(tmp_path, prices=(2.0, 8.0), rate=100.0)
    assert made.cost == pytest.approx((2 * made.read + 8 * made.written) / 1e6)
    assert made.hours == pytest.approx(made.written / 100 / 3600)
    assert f"{made.cost:,.2f}, at 2 in and 8 out" in made.text()


def test_a_sample_stands_for_all_and_says_how_far_off_it_may_be(tmp_path):
    some, every = priced(tmp_path, sample=10), priced(tmp_path)
    assert "10 tasks" in some.basis and some.spread > every.spread == 0.0
    assert abs(some.read / every.read - 1) < 3 * some.spread
    assert priced(tmp_path, sample=10).read == some.read


def test_a_team_without_parts_costs_less(tmp_path):
    bare = config()
    bare["sft_set"]["setting"] = "no_reflector"
    assert priced(tmp_path, config=bare).calls < priced(tmp_path).calls


def test_runs_on_disk_are_measured_and_not_counted_again(tmp_path):
    cost = {"model_calls": 9, "prompt_tokens": 4000, "completion_tokens": 600}
    write_jsonl(tmp_path / "runs.jsonl", made_runs(5, **cost))
    made = priced(tmp_path, in_flight=10)
    assert (made.found, made.runs) == (5, 155)
    assert (made.calls, made.read, made.written) == (155 * 9, 155 * 4000, 155 * 600)
    assert made.rate == 10 * 600 / 2.0 and made.hours == pytest.approx(155 * 600 / 3000 / 3600)
    assert priced(tmp_path, in_flight=10, rate=50.0).rate == 50.0
    assert "5 runs" in made.basis
    other = [replace(task, task_id=f"x{task.task_id}") for task in World().tasks]
    assert priced(tmp_path, tasks=other).found == 0


def test_cached_runs_give_no_rate_and_runs_of_rules_no_measure(tmp_path):
    write_jsonl(tmp_path / "runs.jsonl", made_runs(3, model_calls=9, cached_calls=1, completion_tokens=600))
    assert priced(tmp_path).rate is None
    write_jsonl(tmp_path / "runs.jsonl", made_runs(3))
    assert "40 tasks" in priced(tmp_path).basis and priced(tmp_path).found == 3


def test_cached_replies_give_the_tokens_of_a_call(tmp_path):
    cache = Cache(str(tmp_path / "cache.sqlite"))
    for number in range(4):
        cache.put(str(number), {"prompt_tokens": 1000, "completion_tokens": 50 + number % 2 * 100})
    cache.close()
    made = priced(tmp_path)
    assert made.read == 1000 * made.calls and made.written == 100 * made.calls
    assert "4 replies" in made.basis


def test_all_runs_there_cost_nothing(tmp_path):
    write_jsonl(tmp_path / "runs.jsonl", made_runs(40, model_calls=9, completion_tokens=600))
    made = priced(tmp_path, passes=1, prices=(1.0, 1.0))
    assert (made.runs, made.calls, made.cost, made.hours) == (0, 0, 0.0, 0.0)
    assert made.text()


def test_no_task_costs_nothing(tmp_path):
    assert priced(tmp_path, tasks=World().tasks[:1]).spread == 0.0
    world = Tabled()
    assert estimate(world, config(), [], 4, tmp_path).calls == 0


def test_the_stage_of_a_run_is_estimated_by_its_recipe(run, tmp_path, capsys):
    opened = Run.open(run)
    changed = copy.deepcopy(dict(opened.config))
    changed["teacher"]["options"]["chat"] = {"price_prompt": 1.0, "price_completion": 2.0}
    made = estimate_stage(Run(run, changed), tmp_path)
    teacher = opened.config["teacher"]
    assert made.tasks == len(opened.tasks("train")[: teacher["tasks"]]) and made.passes == teacher["passes"]
    assert made.prices == (1.0, 2.0) and estimate_stage(opened, tmp_path, prices=(3.0, 4.0)).prices == (3.0, 4.0)
    assert star_rl("teach", run, tmp_path, "--dry-run", "--prices", 1, 2) == 0
    assert f"{made.cost:,.2f}, at 1 in and 2 out" in capsys.readouterr().out
    assert star_rl("teach", run, "--dry-run", "--passes", 3, "--first", 10) == 0
    assert "10 tasks x 3 passes" in capsys.readouterr().out
    assert star_rl("teach", run, "--dry-run", "--no-tools") == 2  # the recipe decides it: never ignored in silence
    assert "--no-tools is for tables" in capsys.readouterr().err
    assert star_rl("teach", run, "--probe", 3) == 2
    assert "RUN/tables" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_probing_keeps_its_runs(run, tmp_path, capsys):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(endpoint.Endpoint().__aenter__(), loop).result(10)
    words = ["teach", run / "tables", tmp_path / "out", "--tasks", run / "tasks" / "train.parquet", "--no-tools"]
    words += ["--passes", 4, "--first", 20]
    assert star_rl(*words, "--endpoint", server.url, "--probe", 3) == 0
    out = capsys.readouterr().out
    assert "80 runs" not in out and "77 runs to do, 3 found" in out and "from        3 runs" in out
    asked = server.seen["calls"]
    assert star_rl(*words, "--endpoint", server.url, "--dry-run") == 0 and server.seen["calls"] == asked
    assert "77 runs to do, 3 found" in capsys.readouterr().out
    assert star_rl(*words, "--probe", 3) == 2 and "no model to probe" in capsys.readouterr().err
    assert star_rl("teach", run / "tables", "--no-tools") == 2 and "OUT" in capsys.readouterr().err
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_the_stage_prints_the_estimate_before_it_asks_a_model(run, tmp_path):
    opened = Run.open(run)
    changed = copy.deepcopy(dict(opened.config))
    changed["teacher"]["backend"] = "llm"
    changed["teacher"]["options"]["chat"] = {"endpoints": ["http://127.0.0.1:9/v1"], "price_completion": 2.0}
    said = []
    context = Context(tmp_path, changed, 7, {}, run, lambda *now: None, said.append)
    with pytest.raises(StarError, match="does not answer"):
        teach.build(context)
    assert len(said) == 1 and "tokens out" in said[0] and "0 in and 2 out per million" in said[0]
    changed["teacher"]["backend"] = "rules"
    assert teach.build(context)["total"] and len(said) == 1
