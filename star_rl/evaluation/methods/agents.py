"""Agent workflows of the paper's table 1 (star_rl.baselines.agents) as methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.methods.registry import Spec, load
from star_rl.run import Run


class Workflow(Method):
    """An agent with ``async rank(case, sample)`` as a method.

    Its answer has ``ranking``, ``failure``, ``calls``, ``tokens_in``, ``tokens_out`` and ``messages``.
    """

    varies = True

    def __init__(
        self, inner: Any, in_flight: int = 1, chat: Any = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.inner, self.name, self.in_flight, self._chat = inner, str(inner.name), in_flight, chat
        self._options = dict(options or {})

    @property
    def describe(self) -> dict[str, Any]:
        model = self._chat.describe if self._chat is not None else {}
        return {"class": type(self.inner).__qualname__, **self._options, **model}

    async def __aenter__(self) -> Method:
        if self._chat is not None:
            await self._chat.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._chat is not None:
            await self._chat.close()

    async def rank(self, context: TaskContext) -> Ranking:
        answer = await self.inner.rank(context.case(), context.sample)
        made = as_ranking(answer.ranking)
        cost = {name: getattr(answer, name) for name in ("calls", "tokens_in", "tokens_out")}
        trace = {"messages": list(answer.messages)} if answer.messages else None
        return replace(made, failure=answer.failure or made.failure, trace=trace, **cost)


def make_agent(run: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """Make an agent workflow, on ``endpoint=`` and ``model=`` or on the recipe's teacher endpoint; other options are
    the agent's own."""
    from star_rl.chat import ChatClient, ChatOptions

    spec.no_argument()
    kinds: Mapping[str, Any] = load("star_rl.baselines.agents:AGENTS", spec.name)
    options = dict(spec.options)
    served = dict(run.config["teacher"]["options"].get("chat") or {})
    served |= {"endpoints": [options.pop("endpoint")]} if "endpoint" in options else {}
    served |= {"model": options.pop("model")} if "model" in options else {}
    if not served.get("endpoints") and not served.get("preset"):
        raise StarError(f"method {spec.text!r} has no endpoint", f"give {spec.name}:endpoint=http://HOST:8000/v1")
    served["endpoints"] = tuple(served.get("endpoints") or ())
    chat = ChatClient(ChatOptions(**{"cache": str(folder / "agents.sqlite"), **served}))
    try:
        inner = kinds[spec.name](chat, **options)
    except TypeError as error:
        raise StarError(f"method {spec.text!r}: {error}", "see the agent's own options") from error
    remark = {"remark": inner.remark} if inner.remark else {}
    return Workflow(inner, chat.options.concurrency, chat, {**spec.options, **remark})
