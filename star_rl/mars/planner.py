"""A planner fine-tuned on plans alone (MARS-Planner, paper, section 4.3), in a team whose other agents are not.

It is asked as it was trained: with the student's prompt of scope ``plan``, not with the team's own planner template.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from star_rl.chat import ChatClient, ChatError
from star_rl.mars.agents import Agent, AgentFailure, Step, View
from star_rl.mars.case import Case
from star_rl.prompts import PromptOptions, one_line, student_messages, valid_json
from star_rl.records import Task
from star_rl.trajectory import Thinking, json_block, parse
from star_rl.trajectory.grammar import PLAN

#: Told after a plan that cannot be used. The fault may quote the model, so it is defused like any foreign words.
_COMPLAINT = "That plan cannot be used: {fault}. Write the plan once more."


class TrainedPlanner:
    """The planner's work by a model trained on the SFT set ``planner_only``.

    Args:
        chat: the endpoint that serves it.
        prompt: the prompt it was trained with; its scope is set here.
    """

    def __init__(self, chat: ChatClient, prompt: PromptOptions | None = None) -> None:
        self.chat, self.prompt = chat, replace(prompt or PromptOptions(), scope="plan", tools=False)

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "trained planner", "prompt": asdict(self.prompt), **self.chat.describe}

    async def ready(self) -> None:
        await self.chat.ready()

    async def act(self, agent: Agent, view: View) -> Step:
        """Ask for the plan; once more where it is malformed, with what is wrong.

        Raises:
            AgentFailure: the endpoint failed, or the second answer is malformed too.
        """
        step = Step(agent.name, agent.tag, view.round)
        talk: list[dict[str, Any]] = [
            *student_messages(task_of(view.case), view.case.history, view.case.items, self.prompt)
        ]
        step.messages += talk
        fault = ""
        for attempt in (1, 2):
            step.attempts = attempt
            try:
                reply = await self.chat.complete(talk, sample=view.sample)
            except ChatError as error:
                raise AgentFailure("endpoint", str(error), step) from None
            step.model_calls += 1
            step.cached_calls += int(reply.cached)
            step.prompt_tokens += reply.prompt_tokens
            step.completion_tokens += reply.completion_tokens
            said = {"role": "assistant", "content": reply.text}
            step.messages.append(said)
            value, thought, fault = _plan_in(reply.text)
            fault = fault or agent.check(value, view)
            if not fault:
                step.value = value
                step.blocks = [*([Thinking(thought)] if thought else []), json_block(value)]
                return step
            again = {"role": "user", "content": _COMPLAINT.format(fault=one_line(fault, 300))}
            talk = [*talk, said, again]
            step.messages.append(again)
        raise AgentFailure("malformed", fault, step)


def task_of(case: Case) -> Task:
    """A case as the prompt builder takes it. It has no truth, and the builder reads none."""
    cutoff = case.history[-1].timestamp + 1 if case.history else 0
    return Task(case.task_id, case.source, case.scenario, case.user_id, case.candidates, "", cutoff)


def _plan_in(text: str) -> tuple[Any, str, str]:
    """(the list of the first plan phase that has a result, the thought before it, why it cannot be read)."""
    for phase in parse(text).of(PLAN):
        if phase.result is not None:
            thoughts = [block.text for block in phase.blocks if isinstance(block, Thinking)]
            error = phase.result.error and f"the result is not JSON: {phase.result.error}"
            return valid_json(phase.result.value), "\n".join(thoughts), error
    return None, "", "it holds no plan with a JSON result"
