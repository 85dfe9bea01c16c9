"""The student and the teacher as methods, with an engine that says what it is told."""

import asyncio
import json
import shutil

import pytest

from star_rl.errors import StarError
from star_rl.evaluation import runner as evaluation_runner
from star_rl.evaluation.evaluate import open_tasks
from star_rl.evaluation.methods import make
from star_rl.evaluation.runner import context_of
from star_rl.evaluation.studies.scripted import ScriptedTeacher
from star_rl.failure import Failure
from star_rl.ledger import read_rows
from star_rl.mars.rules import TRUST
from star_rl.run import Run
from tests import fakes


def answer(run, tmp_path, spec, **options):
    world, seed, tasks = open_tasks(run, limit=4)
    method = make(spec, world, seed, tmp_path)
    asyncio.run(evaluation_runner.run_method(method, tasks.tasks, context_of(world), tmp_path, **options))
    return method, evaluation_runner.read_answers(tmp_path, tasks.tasks)


def ranked(ids):
    return f"<recommend>\n<Thinking>So.</Thinking>\n<JSON>{json.dumps(ids)}</JSON>\n</recommend>"


def test_a_student_calls_its_tools_and_is_read_by_the_grammar(run, tmp_path, engine):
    engine('<plan>\n<tool_call>\n{"name": "ItemCF", "arguments": {"item_id": "1"}}\n</tool_call>', ranked(["5"]))
    method, answers = answer(run, tmp_path, "star:logprobs=on:in_flight=1", samples=2)
    assert method.name == "star" and engine.options.logprobs
    assert len(answers) == 8
    for one in answers:
        assert list(one.ranking) == ["5"] and one.well_formed is False  # there is no plan that ends
        assert (one.tool_calls, one.calls, one.confidence) == (1, 2, -0.5)
        assert one.tokens > 100 and one.tokens_in > 100 and one.seconds > 0 and one.tool_seconds > 0
    row = json.loads((tmp_path / "star.jsonl").read_text().splitlines()[1])
    assert [message["role"] for message in row["trace"]["messages"]] == ["assistant", "tool", "assistant"]


def test_a_greedy_student_is_asked_once(run, tmp_path, engine):
    engine(ranked(["5"]))
    method, answers = answer(run, tmp_path, "star:sft:temperature=0", samples=4)
    assert method.name == "sft temperature=0" and len(answers) == 4
    assert answers[0].confidence is None and answers[0].seconds is None


def test_the_seed_reaches_the_students_sampling(run, tmp_path, engine):
    engine(ranked(["5"]))
    world, _, _ = open_tasks(run)

    def opened(spec, seed):
        async def work():
            async with make(spec, world, seed, tmp_path):
                return engine.options.seed

        return asyncio.run(work())

    assert [opened("star", seed) for seed in (0, 7)] == [0, 7]
    assert opened("star:seed=3", 7) == 3
    described = [make("star", world, seed, tmp_path).describe for seed in (0, 7)]
    assert described[0] != described[1] and described[1]["seed"] == 7
    greedy = [make("star:temperature=0", world, seed, tmp_path).describe for seed in (0, 7)]
    assert greedy[0] == greedy[1]


def test_the_runs_seed_reaches_the_rollouts_of_its_stages(run, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from star_rl.policy import sampler
    from star_rl.training import sample

    world, _, tasks = open_tasks(run)
    seen = []
    monkeypatch.setattr(sampler, "sample", lambda *given: seen.append(given[5].seed))
    for seed, options in ((0, {}), (7, {}), (7, {"seed": 3})):
        config = {**world.config, "engine": {**world.config["engine"], "options": options}}
        context = SimpleNamespace(config=config, seed=seed, progress=None)
        sample.rollouts(context, world, "model", list(tasks.tasks), tmp_path, samples=1, temperature=1, top_p=1)
    assert seen == [0, 7, 3]


def test_each_replica_has_its_own_rollouts_under_way_unless_their_number_is_given(run, tmp_path, engine):
    world, _, _ = open_tasks(run)
    engine(ranked(["5"])).alive = 4

    async def wide(spec):
        async with make(spec, world, 0, tmp_path) as method:
            return method.in_flight

    assert asyncio.run(wide("star")) == 4 * world.config["engine"]["in_flight"]
    assert asyncio.run(wide("star:in_flight=1")) == 1, "one at a time, so that times are those of a task"


def test_a_student_that_ranks_nothing_is_a_miss_with_its_reason(run, tmp_path, engine):
    engine("I would rather not.")
    _, answers = answer(run, tmp_path, "star")
    assert {one.failure for one in answers} == {Failure("malformed", "wrote no ranking (answered)")}
    assert all(one.ranking is None and one.valid is False for one in answers)


def test_an_engine_that_fails_stops_the_run_and_keeps_nothing_wrong(run, tmp_path, engine):
    engine(fails=True)
    with pytest.raises(StarError, match=r"the engine failed on task .*out of memory"):
        answer(run, tmp_path, "star")
    engine(ranked(["5"]))
    assert len(answer(run, tmp_path, "star")[1]) == 4


def test_a_store_that_gives_out_is_asked_again_by_the_next_call(run, tmp_path, engine, monkeypatch):
    from star_rl.tools import ToolBox

    call = '<plan>\n<tool_call>\n{"name": "ItemCF", "arguments": {"item_id": "1"}}\n</tool_call>'
    engine(ranked(["5"]), call, ranked(["5"]), ranked(["5"]), ranked(["5"]))
    with monkeypatch.context() as patch:
        patch.setattr(ToolBox, "call", lambda *_: 1 / 0)
        _, answers = answer(run, tmp_path, "star:in_flight=1")
    failures = [one.failure for one in answers]
    assert sum(failure is not None for failure in failures) == 1 and len(failures) == 4
    failure = next(filter(None, failures))
    assert failure.kind == "endpoint" and failure.message.startswith("tool_error: ItemCF: ZeroDivisionError")
    engine(ranked(["5"]))
    assert [one.failure for one in answer(run, tmp_path, "star:in_flight=1")[1]] == [None] * 4


def test_a_student_trained_again_is_another_method(run, tmp_path, engine):
    run = shutil.copytree(run, tmp_path / "run")
    weights = run / "grpo" / "final" / "model.safetensors"
    weights.write_text("first")
    engine(ranked(["5"]))
    answer(run, tmp_path, "star")
    weights.write_text("again")
    with pytest.raises(StarError, match=r"star.jsonl holds answers with other settings \(weights: "):
        answer(run, tmp_path, "star")
    weights.write_text("first")
    assert len(answer(run, tmp_path, "star")[1]) == 4
    with pytest.raises(StarError, match=r"with other settings \(max_model_len: "):
        answer(run, tmp_path, "star:max_model_len=64")


def test_whatever_a_student_writes_is_an_answer(run, tmp_path, engine):
    for number, text in enumerate(("", "<recommend>", ranked([1, None, "7"]), ranked("7"), "\ud800")):
        engine(text)
        _, answers = answer(run, tmp_path / str(number), "star")
        assert len(answers) == 4 and all(one.ranking is None or isinstance(one.ranking, list) for one in answers)


def test_the_teachers_parts_are_switched_off_and_named(run, tmp_path):
    world, seed, _ = open_tasks(run)
    names = {
        "teacher": "MARS (rules)",
        "mars:planner=off:tools=off": "MARS (rules) w/o planner w/o tools",
        "mars:rounds=2": "MARS (rules) rounds=2",
        "mars:strategy=recent": "MARS (rules) strategy=recent",
        "mars:evidence=false": "MARS (rules) evidence=false",
        "mars:endpoint=http://localhost:1/v1": "mars",
        "mars:endpoint=http://localhost:1/v1:planner_endpoint=http://localhost:2/v1": "mars-planner",
    }
    made = {spec: make(spec, world, seed, tmp_path) for spec in names}
    assert {spec: method.name for spec, method in made.items()} == names
    assert len({json.dumps(method.describe) for method in made.values()}) == len(names)


def test_a_strategy_by_itself_is_trusted_in_every_run(run, tmp_path):
    for strategy, signal in TRUST.items():
        answer(run, tmp_path / strategy, f"mars:strategy={strategy}")
        traces = [str(row["trace"]["messages"]) for row in read_rows(*(tmp_path / strategy).glob("*.jsonl"))]
        assert len(traces) == 4 and all(f"Trust: {signal}." in trace for trace in traces)


def test_a_strategy_that_is_unknown_or_of_no_rules_is_refused(run, tmp_path):
    with pytest.raises(StarError, match=r"strategies.stars is not known"):
        answer(run, tmp_path, "mars:strategy=stars")
    with pytest.raises(StarError, match="a language model has no strategies"):
        answer(run, tmp_path, "mars:strategy=users:endpoint=http://localhost:1/v1")


def test_a_student_answers_with_its_evidence_taken_away_or_false(run, tmp_path, engine):
    user = open_tasks(run)[2].tasks[0].user_id
    call = {"name": "UserCF", "arguments": {"user_id": user}}
    engine(f"<plan>\n<tool_call>\n{json.dumps(call)}\n</tool_call>", ranked(["5"]))
    said = {}
    for choice in ("true", "none", "false"):
        method, answers = answer(run, tmp_path / choice, f"star:sft:in_flight=1:evidence={choice}")
        assert method.name == f"sft evidence={choice}" and len(answers) == 4
        row = next(read_rows(*(tmp_path / choice).glob("*.jsonl")))
        said[choice] = row["trace"]["messages"][1]["content"]
    assert said["none"] == f"There is no evidence for user {user}."
    lists = {choice: json.loads(said[choice].rpartition("Among the candidates: ")[2]) for choice in ("true", "false")}
    assert len(lists["true"]) == len(lists["false"]) > 0 and lists["true"] != lists["false"]


def test_a_student_of_another_run_is_asked_in_the_form_it_was_trained_in(run, tmp_path, engine):
    other = fakes.make_run(tmp_path, "seed=5", "prompt.names=slots", "tools.lens=text")
    checkpoint = other / "grpo" / "final"
    shutil.copytree(run / "grpo" / "final", checkpoint)
    engine(ranked(["c2", "c1"]))
    own, _ = answer(other, tmp_path / "own", f"star:{checkpoint}")
    zero_shot, answers = answer(run, tmp_path / "other", f"star:{checkpoint}")
    here = make("star", Run.open(run), 0, tmp_path)
    assert zero_shot.name == f"star:{checkpoint}"
    assert [one.ranking for one in answers] == [list(one.task.candidates[1::-1]) for one in answers]
    assert zero_shot.describe["student"] == own.describe["student"] != here.describe["student"]
    assert zero_shot.describe["evidence"] == here.describe["evidence"] != own.describe["evidence"]


def test_agents_need_an_endpoint_and_options_of_their_own(run, tmp_path):
    world, seed, _ = open_tasks(run)
    with pytest.raises(StarError, match="'cot' has no endpoint"):
        make("cot", world, seed, tmp_path)
    with pytest.raises(StarError, match="'cot:endpoint=http://localhost:1/v1:colour=red'"):
        make("cot:endpoint=http://localhost:1/v1:colour=red", world, seed, tmp_path)
    made = make("memory:endpoint=http://localhost:1/v1:mended=off", world, seed, tmp_path)
    assert "MemoryAgent" in made.name and made.describe["mended"] is False


def test_mars_runs_on_the_students_engine(run, tmp_path, engine):
    engine("x" * 9000)
    world, seed, tasks = open_tasks(run)

    async def work():
        student = make("star:in_flight=1", world, seed, tmp_path)
        student.widen()
        async with student:
            assert engine.options.max_model_len is None
            found = []
            for planner in (False, True):
                method = ScriptedTeacher(world, "MARS", student, seed, planner)
                found.append(await method.rank(context_of(world)(tasks.tasks[0], 0)))
            return found

    for found in asyncio.run(work()):
        assert not found.failure and len(found.ids) == 10
        assert found.calls >= 6 and found.tokens_in > found.tokens_out > 100 and found.seconds > 0
