"""The policy loop inside verl, as agent loop ``star_agent``.

An adapter: verl's server client becomes an engine, and a rollout becomes verl's ``AgentLoopOutput``. Its configuration
is the file ``actor_rollout_ref.rollout.agent.agent_loop_config_path``, which :mod:`star_rl.integrations.verl.recipe`
writes for each run.

The reward, verl's ``reward.custom_reward_function``, is computed here and returned as ``reward_score``
(verl/experimental/agent_loop/agent_loop.py:978): verl's reward manager would decode the whole response, tool output
included, and a reward must read only what the model wrote.
"""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import get_custom_reward_fn

from star_rl import own as of_ones_own
from star_rl.policy.loop import Budget, Generation, Rollout, render_prompt, rollout
from star_rl.policy.rollout_stats import FAILED
from star_rl.prompts.slots import Slots
from star_rl.rewards.loading import NEEDED, check
from star_rl.run import DATA, Run, VisibleRun
from star_rl.tools import EvidenceReader, Lens, ToolBox, schemas_of

logger = logging.getLogger(__name__)
Made = TypeVar("Made")
#: Opens the store, unless a recipe names another function.
OPENER = "star_rl.evidence:EvidenceStore.open"


class _ServerEngine:
    """verl's server client as an engine; keeps the weight versions that took part in the rollout."""

    def __init__(self, client: Any, priority: int) -> None:
        self._client, self._priority = client, priority
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


@functools.lru_cache(maxsize=4)
def _open_own(tools: tuple[str, ...], environment: str, data: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Return tools and environment of one's own and the tools' schemas, opened once per process."""
    seen = VisibleRun(Run(Path(data), {}), DATA)
    begin = of_ones_own.open_environment(environment, seen) if environment else None
    return of_ones_own.open_tools(tools, seen), begin, of_ones_own.schemas(tools)


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
        own, environment: tools and an environment of one's own (:mod:`star_rl.own`); ``data`` is the run they see.
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
        own: Sequence[str] = (),
        environment: str = "",
        data: str = "",
        budget: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = _limits(self.config)
        self._budget = self._limits.hold(budget or {})
        self._store = open_store(store, scenario, fingerprint, opener)
        self._shown = (lens, lens_top)
        self._own, self._begin, schemas = _open_own(tuple(own), environment, data)
        self._schemas = schemas if show_tools else None
        self._reward, self._keys = _reward_function(self.config)
        _settle()

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Run one rollout and score it. ``kwargs`` are the columns of the GRPO parquet."""
        working = time.thread_time()
        task = _plain(kwargs.get("extra_info") or {})
        engine = _ServerEngine(self.server_manager, priority)
        candidates, named = task.get("candidates") or (), task.get("slots")
        slots = Slots(candidates=candidates, **named) if named else None
        toolbox = ToolBox(self._store, candidates, *self._shown, slots, self._own)
        told = of_ones_own.about(task.get("task_id", ""), task.get("user_id", ""), candidates, task.get("follow_up"))
        environment = self._begin(told) if self._begin else None
        messages = tuple(tuple(message.items()) for message in kwargs["raw_prompt"])
        prompt_ids = _prompt_ids(self.tokenizer, messages, self._schemas)
        route = routing_key(self.config, kwargs.get("uid"))
        prepared = time.thread_time() - working
        result = await rollout(
            engine, self.tokenizer, prompt_ids, toolbox, self._budget, sampling_params, route, environment
        )
        if result.error:
            logger.warning("rollout of %s ended: %s (%s)", task.get("task_id"), result.stop, result.error)
        result.own_seconds += prepared
        started = time.perf_counter()
        details = self._score(kwargs, result, task)
        output = self._output(result, engine, details, time.perf_counter() - started)
        output.extra_fields.update(
            task_id=task.get("task_id"),
            difficulty=task.get("difficulty"),
            stop=result.stop,
            error=result.error,
            messages=result.messages,
        )
        return output

    def _score(self, row: Mapping[str, Any], result: Rollout, task: dict[str, Any]) -> dict[str, float]:
        """Score the model's own text; return the reward's numbers with the loop's statistics."""
        working = time.thread_time()
        answer = self._reward(
            data_source=row["data_source"],
            solution_str=result.model_text,
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info={**task, "rollout": dict(result.counts), "answers": result.answers},
        )
        result.own_seconds += time.thread_time() - working
        details = held_to(answer, self._keys)
        details.update({f"loop_{name}": value for name, value in result.counts.items()})
        details["loop_own_seconds"] = result.own_seconds
        return details

    def _output(
        self, result: Rollout, engine: _ServerEngine, details: dict[str, float], score_seconds: float
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
            reward_score=details["score"],
            num_turns=2 * max(1, len(result.turns)),
            metrics=AgentLoopMetrics(
                generate_sequences=result.engine_seconds, tool_calls=result.tool_seconds, compute_score=score_seconds
            ),
            extra_fields={
                "reward_extra_info": details,
                "min_global_steps": engine.first_step or 0,
                "max_global_steps": engine.last_step or 0,
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

    With verl, torch and vLLM's client loaded, a full collection stops all rollouts of a worker for 0.4 s. A young one
    goes through the token lists of all rollouts and finds next to nothing, so it runs every 50,000 new objects, not
    every 700.
    """
    gc.collect()
    gc.freeze()
    if 0 < gc.get_threshold()[0] < 50_000:
        gc.set_threshold(50_000)


def routing_key(config: Any, uid: Any) -> str | None:
    """Return the request id by which verl's router chooses a replica; None for an id of the rollout's own.

    The router (verl/workers/rollout/router.py:139) sends requests of one id to one replica. With ``uid`` as the id the
    samples of a prompt meet in one prefix cache, and the prompt is computed once. Not with fewer prompts a step than
    replicas, which would leave some idle, nor under ``full_determinism``, where vLLM sees this id and it is unique.
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


@functools.lru_cache(maxsize=256)
def _prompt_ids(
    tokenizer: Any, messages: tuple[tuple[tuple[str, str], ...], ...], own: tuple[str, ...] | None
) -> list[int]:
    """Return the token ids of a prompt, rendered once for all of its samples. Shape: (P,).

    Args:
        own: schemas beside those of the two tools; None shows no tools.
    """
    return render_prompt(tokenizer, [dict(message) for message in messages], None if own is None else schemas_of(own))


def _plain(value: Any) -> Any:
    """Copy a row with lists for arrays: the samples of a prompt share it, and a reward may change it."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def held_to(answer: Any, keys: Sequence[str]) -> dict[str, float]:
    """Return a reward's numbers under exactly the keys that its check found: W&B needs them for every sample.

    A missing key becomes 0 and an extra one is dropped; ``loop_reward_key_faults`` counts both.

    Raises:
        ValueError: ``score`` or ``acc`` is missing, or a value is no finite number.
    """
    if not isinstance(answer, Mapping):
        raise ValueError(f"the reward returns {type(answer).__name__}, no dictionary")
    if missing := [name for name in NEEDED if name not in answer]:
        raise ValueError(f"the reward returns no {', '.join(missing)} for this rollout")
    details: dict[str, float] = {}
    for name in keys:
        value = answer.get(name, 0.0)
        try:
            details[name] = float(value)
        except (TypeError, ValueError):
            details[name] = math.nan
        if not math.isfinite(details[name]):
            raise ValueError(f"the reward returns {name}={value!r} for this rollout")
    details["loop_reward_key_faults"] = float(len(set(keys) ^ set(answer)))
    return details


@_once_a_config
def _reward_function(config: Any) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Load ``reward.custom_reward_function`` with verl's loader; return it and its keys."""
    function = get_custom_reward_fn(config)
    if function is None:
        raise ValueError("star_agent needs reward.custom_reward_function.path")
    return function, check(function)
