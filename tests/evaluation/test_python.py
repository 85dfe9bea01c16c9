"""Methods of one's own: made from a file or an object, kept from answers, and kept from blocking others."""

import asyncio
import threading

import pytest

from star_rl.errors import StarError
from star_rl.evaluation.evaluate import evaluate
from star_rl.evaluation.methods import Method
from star_rl.evaluation.methods.python import Isolated
from star_rl.files import read_json
from tests.evaluation.test_evaluate import OWN, SHUT
from tests.evaluation.test_runner import run as answer
from tests.evaluation.test_runner import scored
from tests.fakes import star_rl


def test_a_method_of_ones_own_sees_no_answer_and_no_future(run, tmp_path, capsys):
    peek = "def make(world, seed):\n    world.visible, world.items, world.store, world.config\n    return world.{}\n"
    for name in ("tasks", "histories", "history", "run"):
        (tmp_path / "own.py").write_text(peek.format(name))
        assert star_rl("evaluate", f"python:{tmp_path}/own.py:make", "--tasks", run, "--out", tmp_path / "e") == 2
        assert f"object has no attribute '{name}'" in capsys.readouterr().err


class Ids:
    """A plain object that ranks by id."""

    name = "ids"

    def rank(self, context):
        return sorted(context.task.candidates)


def test_objects_of_ones_own_are_evaluated_beside_names(run, tmp_path):
    figures = evaluate(["random", Ids()], run, tmp_path / "e", limit=2, resamples=100, against="random")
    assert [row["name"] for row in figures["methods"]] == ["random", "ids"]
    assert figures == read_json(tmp_path / "e" / "metrics.json")
    with pytest.raises(StarError, match="is no method"):
        evaluate([object()], run, tmp_path / "f")


@pytest.mark.parametrize("old, new", [("def make", "def make("), ("return Shut()", "return 1 / 0")])
def test_code_of_ones_own_that_does_not_run_is_named(run, tmp_path, capsys, old, new):
    (tmp_path / "own.py").write_text(SHUT.replace(old, new))
    assert star_rl("evaluate", f"python:{tmp_path}/own.py:make", "--tasks", run, "--out", tmp_path / "e") == 2
    err = capsys.readouterr().err
    assert "own.py" in err and ("cannot be imported: SyntaxError" in err or "cannot be made (ZeroDivisionError" in err)


def test_a_method_of_ones_own_that_was_changed_is_another(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    words = ("evaluate", f"python:{tmp_path}/own.py:make", "--tasks", run, "--out", tmp_path / "e")
    assert star_rl(*words) == 0
    (tmp_path / "own.py").write_text(OWN.replace("else list(task.candidates)", "else list(task.candidates)[::-1]"))
    assert star_rl(*words) == 2
    assert "fine.jsonl holds answers with other settings (source: " in capsys.readouterr().err


def test_a_maker_that_makes_no_method_is_refused(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    assert star_rl("evaluate", f"python:{tmp_path}/own.py:nothing", "--tasks", run, "--out", tmp_path / "e") == 2
    assert "is no method" in capsys.readouterr().err


def test_a_method_that_blocks_its_loop_is_timed_out_and_opened_again(tmp_path):
    release = threading.Event()

    class Blocking(Method):
        name, opened, closed = "blocking", 0, 0

        async def __aenter__(self):
            self.opened += 1
            return self

        async def __aexit__(self, *_):
            self.closed += 1

        async def rank(self, context):
            if context.task.task_id == "t2":
                release.wait()  # as a request does that is not asynchronous
            if context.task.task_id == "t4":
                raise SystemExit(3)
            return ["7"]

    method = Blocking()
    failed = answer(Isolated(method), tmp_path, timeout=0.5)
    release.set()
    assert failed == {"timeout: no answer within 0.5 s": 1, "error: SystemExit: 3": 1}
    assert (method.opened, method.closed) == (2, 1)
    assert scored(tmp_path)[0]["n"] == 6


def test_an_isolated_method_is_cancelled_in_time_and_keeps_its_loop(tmp_path):
    class Sleeper(Method):
        name, varies, in_flight, loops = "sleeper", True, 6, set()

        @property
        def describe(self):
            return {"k": 1}

        async def __aenter__(self):
            self.watch("warms up")
            return self

        async def rank(self, context):
            self.loops.add(asyncio.get_running_loop())
            if context.task.task_id == "t5":
                await asyncio.Event().wait()
            return ["7"]

    said = []
    inner = Isolated(Sleeper())
    assert (inner.varies, inner.in_flight, inner.settings) == (True, 6, {"k": 1})
    failed = answer(inner, tmp_path, timeout=0.5, progress=lambda *now: said.append(now[2]))
    assert failed == {"timeout: no answer within 0.5 s": 1}
    assert len(Sleeper.loops) == 1 and "sleeper warms up" in said
