"""A user's reward: every way to name one, and every way to get one wrong, told before anything starts."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from star_rl.deadline import Overtime, within
from star_rl.errors import StarError
from star_rl.rewards import loading, star
from star_rl.rewards.keys import KEYS
from star_rl.rewards.loading import NAMES, check, load, options_of, place

GOOD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth in solution_str), "acc": 0.0}

def other(data_source, solution_str, ground_truth, extra_info=None, weight=1.0):
    return {"score": weight * (ground_truth in solution_str), "acc": 0, "mine": 3}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_projects_own_pass(name: str) -> None:
    assert check(load(name), name) == tuple(sorted(KEYS))
    assert place(name) == (f"pkg://star_rl.rewards.{name}", "compute_score")


def test_a_file(own: Path) -> None:
    assert check(load(str(own))) == ("acc", "score")
    assert check(load(f"{own}:other"), weight=2.0) == ("acc", "mine", "score")
    assert place(f"{own}:other") == (str(own.resolve()), "other")


def test_a_relative_file(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    assert place("mine.py") == (str(own.resolve()), "compute_score")
    assert load("mine.py") is not None


def test_a_module() -> None:
    assert load("pkg://star_rl.rewards.star") is star.compute_score
    assert load("pkg://star_rl/rewards/star:compute_score") is star.compute_score
    assert place("pkg://star_rl/rewards/star") == ("pkg://star_rl.rewards.star", "compute_score")


@pytest.mark.engine
def test_verl_finds_the_same_function() -> None:
    utils = pytest.importorskip("verl.utils.import_utils", reason="verl is not installed")
    path, name = place("star")
    assert utils.load_extern_object(path, name) is star.compute_score


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nonsense", "reward=nonsense is unknown"),
        ("", "is unknown"),
        ("no/such/file.py", "there is no reward file no/such/file.py"),
        ("pkg://", "names no module"),
        ("pkg://a-b", "names no module"),
        ("pkg://no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("pkg://star_rl.rewards.star:missing", "has no function missing"),
    ],
)
def test_a_spec_that_names_nothing(spec: str, words: str) -> None:
    with pytest.raises(StarError, match=words):
        load(spec)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def compute_score(:", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('no')", "cannot be imported: RuntimeError: no"),
        ("x = 1", "has no function compute_score"),
        ("compute_score = 3", "has no function compute_score"),
    ],
)
def test_a_file_that_does_not_load(tmp_path: Path, source: str, words: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(StarError, match=words):
        load(str(path))


_HEAD = "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    "


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def compute_score(text, truth): return {}", "cannot be called with"),
        ("def compute_score(data_source, solution_str, ground_truth): return {}", "cannot be called with"),
        (
            "def compute_score(data_source, solution_str, ground_truth, extra_info, must): return {}",
            "cannot be called with",
        ),
        (_HEAD + "return 1.0", "returns float"),
        (_HEAD + "return None", "returns NoneType"),
        (_HEAD + "return {}", "returns no score, acc"),
        (_HEAD + "return {'score': 1.0}", "returns no acc"),
        (_HEAD + "return {'score': 1.0, 'acc': 1.0, 'reward': 1.0}", "a key named reward"),
        (_HEAD + "return {'score': 1.0, 'acc': 1.0, 'loop_turns': 1.0}", "a key loop_turns"),
        (_HEAD + "return {'score': float('nan'), 'acc': 1.0}", "score=nan on a well formed response"),
        (_HEAD + "return {'score': float('inf'), 'acc': 1.0}", "score=inf"),
        (_HEAD + "return {'score': '1', 'acc': 1.0}", "score='1'"),
        (_HEAD + "return {'score': 1.0, 'acc': None}", "acc=None"),
        (_HEAD + "return {'score': 1.0, 'acc': [1.0]}", "acc="),
        (_HEAD + "return {'score': 1.0, 'acc': 1.0, 3: 1.0}", "3=1.0"),
        (
            _HEAD + "return {'score': 1.0, 'acc': 1.0, 'n' if solution_str else 'm': 1.0}",
            "changes its keys on an empty",
        ),
        (_HEAD + "return {'score': 1.0 / len(solution_str), 'acc': 1.0}", "raises ZeroDivisionError on an empty"),
        (_HEAD + "return {'score': float('</tool_call>\\n<' in solution_str), 'acc': 0.0}", "scores a right answer 0"),
        ("async " + _HEAD + "return {'score': 1.0, 'acc': 1.0}", "is asynchronous"),
    ],
)
def test_a_reward_that_breaks_its_contract(tmp_path: Path, source: str, words: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(StarError, match=words):
        check(load(str(path)), "the reward bad.py")


def test_an_option_that_the_reward_does_not_take(own: Path) -> None:
    with pytest.raises(StarError, match="weight"):
        check(load(str(own)), weight=2.0)


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "np.py"
    path.write_text("import numpy as np\n" + _HEAD + "return {'score': np.float32(1), 'acc': np.int64(0)}")
    assert check(load(str(path))) == ("acc", "score")


def test_options_of_a_recipe_are_those_the_check_tries():
    for key in ("reward_kwargs", "+reward_kwargs"):
        options = options_of({"reward": {"custom_reward_function": {key: {"cost": 0.5}}}})
        assert options == {"cost": 0.5}
        check(load("tool_cost"), "tool_cost", **options)
    assert options_of({}) == options_of({"reward": None}) == {}


def wrong(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "wrong.py"
    path.write_text(body)
    return path


HEAD = "def compute_score(data_source, solution_str, ground_truth, extra_info):\n"


def test_a_reward_may_read_all_that_is_documented_of_a_row_and_of_its_rollout(tmp_path: Path) -> None:
    body = HEAD + (
        "    known = {'easy': 1.0, 'medium': 1.0, 'hard': 2.0}[extra_info['difficulty']]\n"
        "    assert extra_info['scenario'] and extra_info['user_id'] and len(extra_info['required']) >= 3\n"
        "    counts = extra_info['rollout']\n"
        "    spent = sum(counts[name] for name in ('model_tokens', 'unknown_tools', 'stop_answered'))\n"
        "    return {'score': known * (ground_truth in solution_str) - spent, 'acc': 0.0}\n"
    )
    assert check(load(str(wrong(tmp_path, body)))) == ("acc", "score")


def test_the_tried_row_has_the_keys_of_a_real_one() -> None:
    from star_rl.data_builders.grpo_set import SCHEMA
    from star_rl.rewards.loading import _info

    real = {field.name for field in SCHEMA.field("extra_info").type}
    assert real - set(_info("x")) == {"need_tools_kwargs", "tools_kwargs", "follow_up"}, (
        "verl's own, and an environment's"
    )
    assert set(_info("x")) - real == {"rollout", "answers"}


@pytest.mark.parametrize("value", ["np.zeros(2)", "np.array([])", "[1.0]", "1j", "None"])
def test_several_numbers_are_not_one(tmp_path: Path, value: str) -> None:
    body = "import numpy as np\n" + HEAD + f"    return {{'score': {value}, 'acc': 0.0}}\n"
    with pytest.raises(StarError, match="return finite numbers only"):
        check(load(str(wrong(tmp_path, body))))


def test_an_exit_is_a_failure_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(StarError, match="cannot be imported: SystemExit: 3"):
        load(str(wrong(tmp_path, "import sys\nsys.exit(3)\n")))
    with pytest.raises(StarError, match="raises SystemExit on a well formed response"):
        check(load(str(wrong(tmp_path, HEAD + "    raise SystemExit(3)\n"))))


ENDLESS = [
    "    while True:\n        try:\n            pass\n        except Exception:\n            pass\n",
    "    import re\n    return re.match(r'(a+)+$', 'a' * 60 + 'b')\n",
    "    import time\n    time.sleep(1000)\n",
]


@pytest.mark.parametrize("body", ENDLESS)
def test_a_reward_without_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    reward = load(str(wrong(tmp_path, HEAD + body)))
    monkeypatch.setattr(loading, "PATIENCE", 0.2)
    with pytest.raises(StarError, match=r"did not score a well formed response .* within 0\.2 s"):
        check(reward)
    with pytest.raises(StarError, match=r"could not be imported within 0\.2 s"):
        load(str(wrong(tmp_path, "if True:\n" + body.replace("return ", ""))))


def test_the_limit_holds_in_another_thread_as_well() -> None:
    released = threading.Event()

    def told(call: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(within, 0.05, call).result()

    with pytest.raises(Overtime):
        told(released.wait)
    released.set()
    assert told(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        told(lambda: 1 / 0)


def test_an_alarm_that_was_set_before_still_rings() -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 500.0)
    try:
        assert within(5.0, lambda: 1) == 1
        assert 400 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
