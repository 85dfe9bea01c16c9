"""The policy loop inside verl, as agent loop ``star_agent``.

Only an adapter: verl's server client becomes an engine, :func:`star_rl.policy.loop.rollout` runs, and its result
becomes verl's ``AgentLoopOutput``. It is configured by the file named in
``actor_rollout_ref.rollout.agent.agent_loop_config_path``, which :mod:`star_rl.integrations.verl.recipe` writes for
each run.

The reward is computed here and handed over as ``reward_score``, which verl accepts from any loop
(verl/experimental/agent_loop/agent_loop.py:978). Its own reward manager would decode the whole response, tool output
included, and a reward must read only what the model wrote. The function is still the one named by verl's own
``reward.custom_reward_function``.
"""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import math
import operator
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import get_custom_reward_fn

from star_rl.policy.loop import Budget, Generation, Rollout, render_prompt, rollout
from star_rl.policy.rollout_stats import FAILED
from star_rl.rewards.loading import NEEDED, check
from star_rl.tools import TOOL_SCHEMAS, EvidenceReader, Lens, ToolBox

logger = logging.getLogger(__name__)
Made = TypeVar("Made")
#: Objects made since the last garbage collection that call for the next.
_YOUNG = 50_000


#: Opens the store, unless a recipe names a function of its own.
OPENER = "star_rl.evidence:EvidenceStore.open"


class _ServerEngine:
    """verl's server client as an engine; keeps the weight versions that took part in the rollout."""

    def __init__(self, client: Any, priority: int) -> None:
        self._client = client
        self._priority = priority
        self.first_step: int | None = None
        self.last_step: int | None = None

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        output = await self._client.generate(
            request_id=request_id, prompt_ids=prompt_ids, sampling_params=sampling_params, priority=self._priority
        )
        if self.first_step is None:
            self.first_step = output.extra_fields.get("min_global_steps")
        self.last_step = output.extra_fields.get("max_global_steps") or self.last_step
        return Generation(output.token_ids, output.log_probs, output.stop_reason)


@functools.lru_cache(maxsize=4)
def open_store(path: str, scenario: str, fingerprint: str, opener: str = OPENER) -> EvidenceReader:
    """Open the evidence store at ``path`` by the function ``module:name``, once per process.

    Raises:
        StarError: the store is damaged, or of another scenario or other data.
    """
    module, _, name = opener.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))(path, scenario, fingerprint)


class StarAgentLoop(AgentLoopBase):
    """One rollout of the policy on verl's rollout servers.

    Not decorated with verl's ``register``: the decorator would replace the configured entry by a bare one when the
    first rollout imports this module.

    Args:
        store: folder of the evidence store.
        scenario, fingerprint: what the store was built from; another store is refused.
        opener: ``module:function`` that opens the store.
        lens, lens_top: how evidence is shown, see :class:`star_rl.tools.ToolBox`.
        show_tools: whether the prompt lists the tool schemas, as the SFT data did.
        budget: fields of :class:`star_rl.policy.loop.Budget`; lengths are verl's where those are shorter.
    """

    def __init__(
        self,
        *args: Any,
        store: str,
        scenario: str = "",
        fingerprint: str = "",
        opener: str = OPENER,
        lens: Lens = "text",
        lens_top: int = 5,
        show_tools: bool = True,
        budget: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = _limits(self.config)
        self._budget = self._limits.hold(budget or {})
        self._store = open_store(store, scenario, fingerprint, opener)
        self._lens: Lens = lens
        self._lens_top = lens_top
        self._tools = TOOL_SCHEMAS if show_tools else None
        self._reward, self._keys = _reward_function(self.config)
        _settle()

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Run one rollout and score it. ``kwargs`` are the columns of the GRPO parquet."""
        working = time.thread_time()
        task = _plain(kwargs.get("extra_info") or {})
        engine = _ServerEngine(self.server_manager, priority)
        toolbox = ToolBox(self._store, task.get("candidates") or (), self._lens, self._lens_top)
        prompt_ids = _prompt_ids(self.tokenizer, kwargs["raw_prompt"], self._tools)
        route = routing_key(self.config, kwargs.get("uid"))
        prepared = time.thread_time() - working
        result = await rollout(engine, self.tokenizer, prompt_ids, toolbox, self._budget, sampling_params, route)
        if result.error:
            logger.warning("rollout of %s ended: %s (%s)", task.get("task_id"), result.stop, result.error)
        result.own_seconds += prepared
        started = time.perf_counter()
        score, details = await self._score(kwargs, result, task)
        output = self._output(result, engine, score, details, time.perf_counter() - started)
        output.extra_fields.update(
            task_id=task.get("task_id"), stop=result.stop, error=result.error, messages=result.messages
        )
        return output

    async def _score(
        self, row: Mapping[str, Any], result: Rollout, task: dict[str, Any]
    ) -> tuple[float, dict[str, float]]:
        """Score the model's own text; return the score and its components with the loop's statistics."""
        working = time.thread_time()
        answer = self._reward(
            data_source=row["data_source"],
            solution_str=result.model_text,
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info={**task, "rollout": dict(result.counts)},
        )
        result.own_seconds += time.thread_time() - working
        details = held_to(answer, self._keys)
        details.update({f"loop_{name}": value for name, value in result.counts.items()})
        details["loop_own_seconds"] = result.own_seconds
        return details["score"], details

    def _output(
        self, result: Rollout, engine: _ServerEngine, score: float, details: dict[str, float], score_seconds: float
    ) -> AgentLoopOutput:
        response_ids, mask, logprobs = result.response_ids, result.response_mask, result.logprobs
        if not response_ids:  # verl needs one token to carry the score; it is not trained on
            response_ids, mask, logprobs = [self.tokenizer.convert_tokens_to_ids("<|im_end|>")], [0], [0.0]
        if result.stop in FAILED:
            mask = [0] * len(mask)
        return AgentLoopOutput(
            # verl pads prompts to prompt_length and refuses longer ones; those have ended as `prompt_too_long`
            prompt_ids=result.prompt_ids[-self._limits.prompt :],
            response_ids=response_ids,
            response_mask=mask,
            response_logprobs=logprobs,
            reward_score=score,
            num_turns=2 * max(1, len(result.turns)),
            metrics=AgentLoopMetrics(
                generate_sequences=result.engine_seconds, tool_calls=result.tool_seconds, compute_score=score_seconds
            ),
            extra_fields={
                "reward_extra_info": details,
                "min_global_steps": engine.first_step if engine.first_step is not None else 0,
                "max_global_steps": engine.last_step if engine.last_step is not None else 0,
                "turn_scores": [],
                "tool_rewards": [],
            },
        )


def _once_a_config(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
    """Cache a function of the configuration: every rollout calls it, and reading OmegaConf is slow."""
    kept: dict[int, tuple[Any, Made]] = {}  # with the configuration, so that no other gets its id

    @functools.wraps(make)
    def look_up(config: Any) -> Made:
        if id(config) not in kept:
            kept[id(config)] = (config, make(config))
        return kept[id(config)][1]

    return look_up


class _Limits(NamedTuple):
    """verl's lengths: the prompt's, and fields of :class:`Budget`."""

    prompt: int
    budget: dict[str, int]

    def hold(self, own: Mapping[str, Any]) -> Budget:
        """Return a budget with no length above verl's; 0 means verl's."""
        lengths = {name: min(own.get(name) or most, most) for name, most in self.budget.items()}
        return Budget(**{**own, **lengths})


@_once_a_config
def _limits(config: Any) -> _Limits:
    rollout = config.actor_rollout_ref.rollout
    context = rollout.max_model_len or rollout.prompt_length + rollout.response_length
    lengths = {"prompt_tokens": rollout.prompt_length, "response_tokens": rollout.response_length}
    return _Limits(rollout.prompt_length, {**lengths, "context_tokens": context})


@functools.lru_cache(maxsize=1)
def _settle() -> None:
    """Make garbage collection rare, once a process.

    With verl, torch and vLLM's client loaded a full collection stops all rollouts of a worker for some 0.4 s, and what
    is loaded stays loaded. A young collection goes through the token lists of every rollout under way, and rollouts
    leave next to nothing to find: a look at every 50,000 new objects will do (Python's default is 700).
    """
    gc.collect()
    gc.freeze()
    if 0 < gc.get_threshold()[0] < _YOUNG:
        gc.set_threshold(_YOUNG)


def routing_key(config: Any, uid: Any) -> str | None:
    """Return the request id by which verl's router chooses a replica; None for an id of the rollout's own.

    The router sends all requests of one id to one replica, and a new id to the least loaded
    (``GlobalRequestLoadBalancer``, verl/workers/rollout/router.py:139). The samples of a prompt share ``uid``, so with
    it as id they meet in one prefix cache and their prompt is computed once, not once a replica. With fewer prompts a
    step than replicas that would leave some idle. vLLM itself never sees this id
    (``LLMServerClient._vllm_request_id``) but under ``full_determinism``, where it has to be unique.
    """
    return str(uid) if uid is not None and _shares_replicas(config) else None


@_once_a_config
def _shares_replicas(config: Any) -> bool:
    """Return whether the samples of a prompt go to one replica."""
    if config.actor_rollout_ref.rollout.get("full_determinism"):
        return False
    gpus = int(config.trainer.nnodes) * int(config.trainer.n_gpus_per_node)
    replicas = gpus // max(1, int(config.actor_rollout_ref.rollout.tensor_model_parallel_size))
    return int(config.data.train_batch_size) >= replicas


#: Token ids of recent prompts, by their messages.
_PROMPTS: OrderedDict[tuple[Any, ...], list[int]] = OrderedDict()
_PROMPTS_KEPT = 256


def forget_prompts() -> None:
    """Clear the cache of prompts."""
    _PROMPTS.clear()


def _prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: list[dict[str, Any]] | None) -> list[int]:
    """Return the token ids of a prompt, rendered once for all of its samples. Shape: (P,)."""
    words = [entry for message in messages for pair in message.items() for entry in pair]
    key = (id(tokenizer), tools is None, *map(str, words))
    ids = _PROMPTS.get(key)
    if ids is None:
        ids = _PROMPTS[key] = render_prompt(tokenizer, messages, tools)
        if len(_PROMPTS) > _PROMPTS_KEPT:
            _PROMPTS.popitem(last=False)
    return ids


def _plain(value: Any) -> Any:
    """Copy a row with lists for arrays: the samples of a prompt share it, and a reward may change it."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def held_to(answer: Any, keys: Sequence[str]) -> dict[str, float]:
    """Return a reward's numbers under exactly the keys of its check: curves need them for every sample.

    A missing key becomes 0 and an extra one is dropped, both counted in ``loop_reward_key_faults``: neither decides
    what is learned, so neither ends a long training.

    Raises:
        ValueError: ``score`` or ``acc`` is missing, or a value is no finite number.
    """
    if not isinstance(answer, Mapping):
        raise ValueError(f"the reward returns {type(answer).__name__}, no dictionary")
    if missing := [name for name in NEEDED if name not in answer]:
        raise ValueError(f"the reward returns no {', '.join(missing)} for this rollout")
    details = {name: _number(name, answer.get(name, 0.0)) for name in keys}
    if bad := [name for name, value in details.items() if not math.isfinite(value)]:
        raise ValueError(f"the reward returns {bad[0]}={details[bad[0]]} for this rollout")
    details["loop_reward_key_faults"] = float(len(set(keys) ^ set(answer)))
    return details


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the reward returns {name}={value!r} for this rollout") from error


@_once_a_config
def _reward_function(config: Any) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Load ``reward.custom_reward_function`` with verl's loader; return it and its keys."""
    function = get_custom_reward_fn(config)
    if function is None:
        raise ValueError("star_agent needs reward.custom_reward_function.path")
    return function, check(function)
