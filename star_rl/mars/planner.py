"""A planner fine-tuned on plans alone (MARS-Planner; paper, section 4.3).

It gets the prompt it was trained with, the student's with scope ``plan``, and not the team's planner template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from star_rl.chat import ChatClient
from star_rl.mars.agents import Agent, AgentFailure, Step, View
from star_rl.mars.calls import ask
from star_rl.prompts import PromptOptions, estimate_tokens, one_line, student_prompt, valid_json
from star_rl.trajectory import Thinking, json_block, parse
from star_rl.trajectory.grammar import PLAN

#: The message after a plan that cannot be used; the fault may quote the model, so it is defused.
_COMPLAINT = "That plan cannot be used: {fault}. Write the plan once more."


class TrainedPlanner:
    """The planner played by a model that was trained on the SFT set ``planner_only``.

    Args:
        chat: the endpoint that serves it.
        prompt: the prompt it was trained with; its scope is set here.
        length: counts the tokens of that prompt.
    """

    def __init__(
        self, chat: ChatClient, prompt: PromptOptions | None = None, length: Callable[[str], int] = estimate_tokens
    ) -> None:
        self.chat, self.length = chat, length
        self.prompt = replace(prompt or PromptOptions(), scope="plan", tools=False)

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "trained planner", "prompt": asdict(self.prompt), **self.chat.describe}

    async def ready(self) -> None:
        await self.chat.ready()

    async def act(self, agent: Agent, view: View) -> Step:
        """Ask for the plan; ask once more, with the fault, if it is malformed.

        Raises:
            AgentFailure: the endpoint failed, or the second answer is malformed too.
        """
        step = Step(agent.name, agent.tag, view.round, attempts=0)
        step.messages += student_prompt(view.case, self.prompt, self.length).messages
        fault = ""
        while step.attempts < 2:
            step.attempts += 1
            reply = await ask(self.chat, step, list(step.messages), sample=view.sample)
            step.messages.append({"role": "assistant", "content": reply.text})
            value, thought, fault = _plan_in(reply.text)
            fault = fault or agent.check(value, view)
            if not fault:
                step.value = value
                step.blocks = [*([Thinking(thought)] if thought else []), json_block(value)]
                return step
            step.messages.append({"role": "user", "content": _COMPLAINT.format(fault=one_line(fault, 300))})
        raise AgentFailure("malformed", fault, step)


def _plan_in(text: str) -> tuple[Any, str, str]:
    """Return (the result of the first plan phase, the thought before it, the fault)."""
    for phase in parse(text).of(PLAN):
        if phase.result is not None:
            thoughts = [block.text for block in phase.blocks if isinstance(block, Thinking)]
            error = phase.result.error and f"the result is not JSON: {phase.result.error}"
            return valid_json(phase.result.value), "\n".join(thoughts), error
    return None, "", "it holds no plan with a JSON result"
