"""Play a user's last interactions in order: rank, reveal what the user chose, reflect, rewrite the notes.

The same play writes the memories of a run, by rules or by a served model, and those of a trained student in evaluation.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence

from star_rl.mars.agents import RANKER, REWRITER, AgentFailure, Backend, View
from star_rl.prompts import Case, Event, Memory
from star_rl.prompts.memory import PLACES, notes_of
from star_rl.records import CANDIDATES, Item, Task
from star_rl.run import Run
from star_rl.trajectory import Trajectory, render

#: Number of the interaction, from 1 -> candidates.
Candidates = dict[int, tuple[str, ...]]


def counts_of(lengths: Iterable[int], interactions: int) -> list[int]:
    """Return which interactions of a user are played, by their number from 1: the last ones of each of these histories.

    The first interaction is never played: there is no record to rank by.
    """
    return sorted({count for length in lengths for count in range(max(2, length - interactions + 1), length + 1)})


def draw(world: Run, user_id: str, history: Sequence[Event], counts: Iterable[int], seed: int) -> Candidates:
    """Draw each play's candidates: its item and 19 that the user never touches, in random order.

    An item that the user chose before is not played: the answer would stand in the record.
    """
    items, every = world.chosen
    touched = {event[0] for event in every.of_user(user_id)}
    pool = [item for item in items if item not in touched]
    found: Candidates = {}
    for count in counts:
        item_id = history[count - 1][0]
        if all(event[0] != item_id for event in history[: count - 1]):
            dice = random.Random(f"{seed}/{user_id}/{count}")
            drawn = [item_id, *dice.sample(pool, min(CANDIDATES - 1, len(pool)))]
            dice.shuffle(drawn)
            found[count] = tuple(drawn)
    return found


def case_at(world: Run, task: Task, history: Sequence[Event], candidates: Sequence[str], memory: Memory | None) -> Case:
    """Return a case of the task's user after a history, in slots where the recipe says so.

    Args:
        task: of the user; only its source and scenario are read.
    """
    cutoff = history[-1][1] + 1
    made = Task(
        f"{task.user_id}/{len(history)}", task.source, task.scenario, task.user_id, tuple(candidates), "", cutoff
    )
    texts, prompt = world.texts(task.user_id, history), world.prompt
    case = Case.of(made, history, world.items, world.users(task.user_id), texts, None, memory)
    return case.named(prompt.names, prompt.together)


async def play(
    backend: Backend, world: Run, task: Task, history: Sequence[Event], plays: Candidates
) -> AsyncIterator[tuple[int, Memory]]:
    """Yield (number of the interaction, memory after it). A play without a well-formed answer changes nothing.

    Args:
        history: of the user; nothing beyond the last play is read.
        plays: as :func:`draw` returns them.

    Raises:
        AgentFailure: the endpoint failed.
    """
    memory: Memory | None = None
    for count, candidates in plays.items():
        stamp = history[count - 1][1]
        try:
            case = case_at(world, task, history[: count - 1], candidates, memory)
            fast = await backend.act(RANKER, View(case, None, top=world.prompt.top))
            ranking = tuple(case.slots.id_of(name) if case.slots else name for name in fast.value)
            notes = memory.text if memory else ""
            played = Memory("", notes, candidates, ranking, render(Trajectory([fast.phase])), "", stamp)
            predicted = first_of(world, played)
            case = case_at(world, task, history[:count], candidates, memory)
            view = View(case, None, (fast,), top=world.prompt.top, played=played, predicted=predicted)
            slow = await backend.act(REWRITER, view)
        except AgentFailure as error:
            if error.failure.kind == "endpoint":
                raise
            continue
        text = render(Trajectory([slow.phase]))
        memory = Memory(notes_of(slow.value["preferences"]), notes, candidates, ranking, played.fast, text, stamp)
        yield count, memory


def first_of(world: Run, played: Memory) -> tuple[Item, ...]:
    """Return the items at the first places of a play's ranking, as many as a reflection is shown."""
    return tuple(world.items[item] for item in played.ranking[: PLACES[world.prompt.profile]])
