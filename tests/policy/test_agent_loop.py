"""What the adapter adds to the policy loop inside verl."""

from collections import Counter

import numpy as np
import pytest
from omegaconf import OmegaConf

pytestmark = pytest.mark.engine


def config(prompts=16, gpus=8, tp=2, **rollout):
    return OmegaConf.create(
        {
            "data": {"train_batch_size": prompts},
            "trainer": {"nnodes": 2, "n_gpus_per_node": gpus},
            "actor_rollout_ref": {"rollout": {"tensor_model_parallel_size": tp, **rollout}},
        }
    )


def test_the_samples_of_a_prompt_meet_on_one_replica_and_replicas_get_as_many_each():
    from verl.workers.rollout.router import GlobalRequestLoadBalancer

    from star_rl.policy.agent_loop import routing_key

    router = GlobalRequestLoadBalancer({f"replica {number}": None for number in range(8)})
    for interleaved in (True, False):  # whichever way the requests arrive
        router.clear_sticky_cache()
        arrivals = [(prompt, sample) for prompt in range(16) for sample in range(8)]
        arrivals.sort(key=lambda arrival: arrival[::-1] if interleaved else arrival)
        went = {}
        for prompt, sample in arrivals:
            went[prompt, sample], _ = router.acquire_server(routing_key(config(), f"uid-{interleaved}-{prompt}"))
        for server in went.values():
            router.release_server(server)
        assert all(len({went[prompt, sample] for sample in range(8)}) == 1 for prompt in range(16))
        assert set(Counter(went.values()).values()) == {16}


def test_replicas_are_not_left_idle_and_ids_that_must_be_unique_stay_so():
    from star_rl.policy.agent_loop import routing_key

    assert routing_key(config(), "a") == "a"
    assert routing_key(config(prompts=4), "a") is None
    assert routing_key(config(full_determinism=True), "a") is None
    assert routing_key(config(), None) is None


def test_vllm_gets_an_id_of_its_own_for_every_turn():
    from verl.workers.rollout.llm_server import LLMServerClient

    client = LLMServerClient(config())
    assert len({"a", client._vllm_request_id("a"), client._vllm_request_id("a")}) == 3


def test_a_prompt_is_rendered_once_for_its_samples(monkeypatch):
    from star_rl.policy import agent_loop

    asked = []
    monkeypatch.setattr(agent_loop, "render_prompt", lambda *arguments: asked.append(arguments) or [len(asked)])
    tokenizer, one, two = object(), ((("role", "user"), ("content", "1")),), ((("role", "user"), ("content", "2")),)
    assert [agent_loop._prompt_ids(tokenizer, tuple(list(one)), None) for _ in range(2)] == [[1], [1]]
    assert agent_loop._prompt_ids(tokenizer, two, None) == [2]
    assert agent_loop._prompt_ids(tokenizer, one, ()) == [3]
    assert asked[0] == (tokenizer, [{"role": "user", "content": "1"}], None) and len(asked[2][2]) == 2
    assert agent_loop._prompt_ids(tokenizer, one, ('{"own": 1}',)) == [4] and asked[3][2][2] == {"own": 1}


def test_what_is_made_of_a_configuration_is_made_once_and_for_that_one_alone():
    from star_rl.policy.agent_loop import _once_a_config

    made = []
    size = _once_a_config(lambda config: made.append(config) or len(config))
    one, two = [1], [1, 2]
    assert [size(one), size(two), size(one), size(two)] == [1, 2, 1, 2]
    assert len(made) == 2
    assert all(size(list(range(number))) == number for number in range(300)), "an id was taken for another's"


def test_a_reward_is_held_to_the_keys_it_had_when_it_was_tried():
    from star_rl.policy.agent_loop import held_to

    keys = ("acc", "score", "style")
    assert held_to({"score": 1, "acc": 0, "style": 2}, keys) == {
        "acc": 0.0, "score": 1.0, "style": 2.0, "loop_reward_key_faults": 0.0,
    }  # fmt: skip
    numbers = held_to({"score": np.float32(0.5), "acc": np.bool_(True), "style": True}, keys)
    assert [numbers[name] for name in keys] == [1.0, 0.5, 1.0] and {type(value) for value in numbers.values()} == {
        float
    }
    odd = held_to({"score": 1, "acc": 0, "words": 7}, keys)
    assert (odd["style"], odd["loop_reward_key_faults"]) == (0.0, 2.0) and "words" not in odd
    for answer, said in (
        ({"score": 1, "style": 1}, "returns no acc"),
        ({"score": float("nan"), "acc": 0}, "score=nan"),
        ({"score": 1, "acc": 0, "style": float("inf")}, "style=inf"),
        ({"score": 1, "acc": 0, "style": None}, "style=None for this rollout"),
        ({"score": 1, "acc": 0, "style": "good"}, "style='good' for this rollout"),
        (1.0, "float, no dictionary"),
    ):
        with pytest.raises(ValueError, match=said):
            held_to(answer, keys)


def test_a_reward_that_changes_its_row_changes_it_for_no_other_sample():
    from star_rl.policy.agent_loop import StarAgentLoop, _plain
    from star_rl.policy.loop import Rollout

    def reward(data_source, solution_str, ground_truth, extra_info):
        extra_info["candidates"].remove(ground_truth)
        extra_info["tools"]["UserCF"].clear()
        return {"score": float(len(extra_info["candidates"])), "acc": 0.0}

    loop = StarAgentLoop.__new__(StarAgentLoop)
    loop._reward, loop._keys = reward, ("acc", "score")
    info = {"candidates": ["1", "2", "3"], "tools": {"UserCF": {"task_id": "a"}}, "ids": np.array([1, 2])}
    row = {"data_source": "toy", "reward_model": {"ground_truth": "2"}, "extra_info": info}
    for _ in range(2):
        assert loop._score(row, Rollout([1]), _plain(info))["score"] == 2.0
    assert info["candidates"] == ["1", "2", "3"] and info["tools"]["UserCF"] == {"task_id": "a"}
    assert _plain(info)["ids"] == [1, 2]


def test_a_reward_s_keys_are_known_before_the_first_rollout(tmp_path):
    from star_rl.policy.agent_loop import _reward_function

    (tmp_path / "reward.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info, weight):\n"
        "    return {'score': float(solution_str.count('100')) * weight, 'acc': 0.0, 'length': len(solution_str)}\n"
    )
    named = {"path": str(tmp_path / "reward.py"), "name": "compute_score", "reward_kwargs": {"weight": 2.0}}
    made = OmegaConf.create({"reward": {"custom_reward_function": named}})
    function, keys = _reward_function(made)
    assert keys == ("acc", "length", "score")
    assert function(data_source="", solution_str="100", ground_truth="", extra_info={})["score"] == 2.0


def test_a_prompt_that_verl_has_no_room_for_is_over_the_loop_s_limit():
    from star_rl.policy.agent_loop import _limits

    limits = _limits(config(prompt_length=6000, response_length=8192, max_model_len=14208))
    assert limits.budget == {"prompt_tokens": 6000, "response_tokens": 8192, "context_tokens": 14208}


def test_no_length_of_a_budget_is_above_verls():
    from star_rl.policy.agent_loop import _limits

    limits = _limits(config(prompt_length=100, response_length=200, max_model_len=310))
    wide = limits.hold({"prompt_tokens": 400, "response_tokens": 400, "context_tokens": 400, "turns": 3})
    assert (wide.prompt_tokens, wide.response_tokens, wide.context_tokens, wide.turns) == (100, 200, 310, 3)
    own = limits.hold(OmegaConf.create({"prompt_tokens": 0, "response_tokens": 50}))
    assert (own.prompt_tokens, own.response_tokens, own.context_tokens) == (100, 50, 310)


def test_a_worker_refuses_a_store_of_another_world(tmp_path):
    from star_rl.errors import StarError
    from star_rl.evidence import EvidenceWriter
    from star_rl.policy.agent_loop import open_store

    with EvidenceWriter(tmp_path / "store", "classic", "data-1") as writer:
        writer.put("ItemCF", "i", "text")
        writer.seal()
    assert open_store(str(tmp_path / "store"), "classic", "data-1").get("ItemCF", "i") == "text"
    for scenario, fingerprint in (("classic", "data-2"), ("user_cold_start", "data-1"), ("", "")):
        with pytest.raises(StarError, match="the evidence store"):
            open_store(str(tmp_path / "store"), scenario, fingerprint)


def test_a_rollout_calls_tools_of_ones_own_and_hears_the_environment():
    import asyncio
    from types import SimpleNamespace

    from star_rl.policy.agent_loop import StarAgentLoop, _limits, _open_own
    from tests.fakes import Letters
    from tests.policy.toy import ToyStore

    tokenizer, asked, scored = Letters(), [], []
    call = '<tool_call>\n{"name": "Near", "arguments": {"item_ids": "i1"}}\n</tool_call>'
    turns = iter([call, "first", "second"])

    async def generate(request_id, prompt_ids, sampling_params, priority):
        asked.append(list(prompt_ids))
        ids = tokenizer.encode(f"{next(turns)}<|im_end|>")
        return SimpleNamespace(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields={})

    def reward(**given):
        scored.append(given["extra_info"])
        return {"score": 1.0, "acc": 1.0}

    loop = StarAgentLoop.__new__(StarAgentLoop)
    loop.config = config(prompt_length=200, response_length=2000, max_model_len=2200)
    loop._limits = _limits(loop.config)
    loop._budget = loop._limits.hold({})
    loop.tokenizer, loop.server_manager, loop._store = tokenizer, SimpleNamespace(generate=generate), ToyStore({})
    loop._shown, loop._reward, loop._keys = ("candidates", 5), reward, ("acc", "score")
    loop._own, loop._begin, loop._schemas = _open_own(("tests.policy.toy:near",), "tests.policy.toy:Doubter", "")
    row = {
        "raw_prompt": [{"role": "user", "content": "Rank."}],
        "data_source": "toy",
        "reward_model": {"ground_truth": "i1"},
        "extra_info": {"task_id": "t", "user_id": "u", "candidates": ["i1", "i2"]},
    }
    output = asyncio.run(loop.run({}, **row))
    roles = [message["role"] for message in output.extra_fields["messages"]]
    assert roles == ["assistant", "tool", "assistant", "user", "assistant"]
    assert output.extra_fields["messages"][1]["content"].startswith("Liked together.\nAmong the candidates: [")
    assert scored[0]["answers"] == [f"{call}\nfirst", "second"] and scored[0]["rollout"]["user_turns"] == 1
    own = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert own == tokenizer.encode(f"{call}<|im_end|>first<|im_end|>second<|im_end|>")
    assert len(asked) == 3 and "Sure?" in tokenizer.decode(asked[2]) and '"Near"' in loop._schemas[0]
