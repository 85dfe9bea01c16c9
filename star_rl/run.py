"""What a recipe's stages share: tables, tasks, histories, prompts and tools of one run, opened when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from star_rl import own
from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore
from star_rl.evidence.leak import contains_of, visible_fingerprint
from star_rl.memory import Memories
from star_rl.pipeline.stage import manifest_of
from star_rl.prompts import Case, Event, Memory, PromptOptions, Summary, estimate_tokens, student_prompt
from star_rl.prompts.student import candidate_lines
from star_rl.records import PARTS, Item, Task, UserTable, items_from, read_interactions, read_table, read_tasks
from star_rl.scenarios import Histories, Reviews
from star_rl.student.tokenizer import token_counter
from star_rl.summaries import Summaries
from star_rl.tools import EvidenceReader, ToolBox, schemas_of
from star_rl.trajectory import LACKING


@dataclass(frozen=True)
class Run:
    """A run's data as the stages after ``evidence`` see it.

    Attributes:
        folder: the run's folder.
        config: sections of the recipe: ``prompt``, ``tools``, ``sft_set`` and those that a method reads.
    """

    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a run's folder with the recipe it was made by.

        Raises:
            StarError: the folder is not a run's.
        """
        from star_rl.pipeline.recipe import recipe_of

        return cls(Path(folder), asdict(recipe_of(Path(folder))))

    @property
    def tables(self) -> Path:
        """The folder of tables."""
        return self.folder / "tables"

    @cached_property
    def items(self) -> dict[str, Item]:
        """All items by id."""
        return items_from(read_table(self.tables, "items"))

    @cached_property
    def users(self) -> UserTable:
        """Attributes of a user: ``run.users(user_id)``."""
        return UserTable.read(self.tables)

    @cached_property
    def histories(self) -> Histories:
        """All users' interactions that the split keeps, of which a task sees those before its cutoff."""
        kept = self.folder / "tasks" / "kept.parquet"
        return Histories(read_interactions(kept if kept.exists() else self.tables))

    @cached_property
    def chosen(self) -> tuple[list[str], Histories]:
        """Items that somebody chose, of the interactions that the split keeps; and all users' interactions, kept or
        not. For drawing items that a user never touches."""
        kept, every = self.folder / "tasks" / "kept.parquet", read_interactions(self.tables)
        table = read_interactions(kept) if kept.exists() else every
        return sorted(set(table["item_id"].unique().to_pylist())), Histories(every)

    @cached_property
    def visible(self) -> Any:
        """Interactions that a method may learn from, an Arrow table: none of them is a task's target or later."""
        return read_table(self.folder / "tasks" / "visible.parquet", "interactions")

    @cached_property
    def popular(self) -> Counter[str]:
        """How often each item was chosen in the visible interactions."""
        return Counter(self.visible["item_id"].to_pylist())

    @cached_property
    def store(self) -> EvidenceStore:
        """The evidence; a store of another world is refused."""
        return EvidenceStore.open(self.folder / "evidence" / "store", *self.origin, self.known_tasks)

    @property
    def known_tasks(self) -> Sequence[Task]:
        """All tasks of the run."""
        return [task for part in PARTS for task in self.tasks(part)]

    @cached_property
    def summaries(self) -> Summaries | None:
        """Summaries of the users' older records; None where the recipe has none."""
        folder = self.folder / "summaries"
        made = manifest_of(folder)
        return Summaries.open(folder, *self.origin) if made and made["figures"]["by"] != "none" else None

    @cached_property
    def memories(self) -> Memories | None:
        """Memories of the users; None where the recipe has none."""
        folder = self.folder / "memory"
        made = manifest_of(folder)
        return Memories.open(folder, *self.origin) if made and made["figures"].get("plays") else None

    @cached_property
    def length(self) -> Callable[[str], int]:
        """Counts the tokens of a text, with the tokenizer of the recipe's student where that is a local folder.

        A tiny student has none yet when its prompts are first written, and a hub id may be in the cache of one machine
        and not of another: for these an upper estimate counts, so that all stages write the same prompts.
        """
        file = Path((self.config.get("student") or {}).get("path") or "", "tokenizer.json")
        return token_counter(file) if file.is_file() else estimate_tokens

    @cached_property
    def origin(self) -> tuple[str, str]:
        """Scenario and fingerprint of the visible interactions, which the store must have been built from."""
        made = manifest_of(self.folder / "tasks")
        if made is None:
            raise StarError(f"{self.folder} has no tasks yet", "run its recipe up to stage evidence at least")
        split = made["key"]["config"]["split"]
        return split["options"].get("scenario", "classic"), made["figures"]["visible_fingerprint"]

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Refuse a task file of another world.

        Raises:
            StarError: no candidate is known here, or the visible interactions hold a task's target.
        """
        if not any(item in self.items for task in tasks for item in task.candidates):
            raise StarError(
                f"the tasks are of another world: the tables of {self.folder} know none of their candidates",
                "name the run whose tables the tasks belong to with --world RUN",
            )
        self.store.check_targets(tasks, contains_of(self.visible, tasks))
        self._reviewers.update(task.user_id for task in tasks)

    @cached_property
    def prompt(self) -> PromptOptions:
        """The student's prompt, without what this SFT setting lacks."""
        options, setting = self.config["prompt"], self.config["sft_set"]["setting"]
        lacks = LACKING.get(setting, ())
        parts: dict[str, Any] = {part: part not in lacks for part in ("tools", "planner", "reflector")}
        if setting == "fast":
            parts["scope"] = "rank"
        tools = own.schemas(self._own) if parts["tools"] else ()
        return PromptOptions(**{**options, **parts, "own": tools})

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """Schemas in the prompt; none for a student without tools."""
        return schemas_of(self.prompt.own) if self.prompt.tools else None

    def caveats(self, taught: bool) -> list[str]:
        """What a reader must know of figures on this run's data before any of them.

        Args:
            taught: is a teacher among the methods, or a student that learned from one?
        """
        said = []
        if taught and self.config["teacher"]["backend"] == "rules":
            said.append("The teacher is made of rules, so no figure here is a claim about language models.")
            rules = self.config["teacher"]["options"].get("rules") or {}
            if (rules.get("strategies") or {}).get("category"):
                said.append(
                    "One of the rules' strategies ignores the evidence on purpose, so that GRPO has an inferior "
                    "strategy to drop which the student inherited."
                )
        tables = (manifest_of(self.tables) or {}).get("key", {}).get("config", {})
        if tables.get("source", {}).get("name") == "synthetic":
            said.append(
                "The data are synthetic: good for seeing the chain work, never for a claim about recommendation."
            )
        return said

    def tasks(self, part: str) -> list[Task]:
        """Return the tasks of ``train``, ``valid`` or ``test``."""
        return read_tasks(self.folder / "tasks", part)

    def history(self, task: Task) -> list[Event]:
        """Return what the user chose before the task, oldest first: (item id, timestamp, rating)."""
        return self.histories.history(task)

    def case(self, task: Task) -> Case:
        """Return the task as the student and the teacher's agents read it, in slots where the recipe says so."""
        history = self.history(task)
        texts, summary = self.texts(task.user_id, history), self.summary(task.user_id, history)
        memory = self.memory(task.user_id, history)
        case = Case.of(task, history, self.items, self.users(task.user_id), texts, summary, memory)
        return case.named(self.prompt.names, self.prompt.together)

    def texts(self, user_id: str, history: Sequence[Event]) -> dict[tuple[str, int], str]:
        """Return the user's reviews of these interactions, by item and time."""
        if user_id not in self._reviewers:
            self._reviewers.add(user_id)
            self.__dict__.pop("_reviews", None)
        return self._reviews.of(user_id, history)

    @cached_property
    def _reviewers(self) -> set[str]:
        """Users with tasks, whose texts are read."""
        return {task.user_id for task in self.known_tasks}

    @cached_property
    def _reviews(self) -> Reviews:
        return Reviews.read(self.tables, self._reviewers)

    def summary(self, user_id: str, history: Sequence[Event]) -> Summary | None:
        """Return the stored summary of the older part of this history, None if no prefix is stored."""
        return self.summaries.of(user_id, history) if self.summaries else None

    def memory(self, user_id: str, history: Sequence[Event]) -> Memory | None:
        """Return what the user's agent noted after this history; None where nothing is stored."""
        return self.memories.of(user_id, history) if self.memories else None

    def messages(self, task: Task) -> list[dict[str, str]]:
        """Return the student's prompt as chat messages."""
        return student_prompt(self.case(task), self.prompt, self.length).messages

    def check_prompts(self) -> None:
        """Check that the candidates of every task fit its prompt, before anything is paid for.

        Raises:
            StarError: names the first task whose candidates do not fit, and how many there are.
        """
        if self.prompt.profile != "full":
            return
        found: list[StarError] = []
        for task in self.known_tasks:
            try:
                candidate_lines(self.case(task), self.prompt, self.length)
            except StarError as error:
                found.append(error)
        if found:
            raise StarError(f"{len(found):,} task(s) do not fit prompt.budget, first {found[0].what}", found[0].remedy)

    def toolbox(self, case: Case, evidence: Callable[[Sequence[str]], EvidenceReader] | None = None) -> ToolBox:
        """Return the tools of a case.

        Args:
            evidence: ids of the candidates -> what answers in the place of the run's store.
        """
        options = self.config["tools"]
        candidates = case.slots.candidates if case.slots else case.candidates
        store = evidence(candidates) if evidence else self.store
        return ToolBox(store, candidates, options["lens"], options["lens_top"], case.slots, self.own_tools)

    @cached_property
    def own_tools(self) -> dict[str, own.OwnTool]:
        """Tools of one's own by name."""
        return own.open_tools(self._own, VisibleRun(self, DATA))

    @property
    def _own(self) -> Sequence[str]:
        return (self.config.get("tools") or {}).get("own") or ()

    @cached_property
    def _begin(self) -> Callable[[Mapping[str, Any]], own.Step] | None:
        name = (self.config.get("loop") or {}).get("environment")
        return own.open_environment(name, VisibleRun(self, DATA)) if name else None

    def environment(self, task: Task) -> own.Step | None:
        """Return the step of the environment for a rollout of a task; None where the recipe has none."""
        return self._begin(own.about(task.task_id, task.user_id, task.candidates)) if self._begin else None


#: What tools and environments see of a run.
DATA = ("items", "visible")


class VisibleRun:
    """What code of one's own sees of a run: nothing that holds an answer or comes after a task. Read on demand.

    Attributes:
        visible: interactions that any method may learn from (Arrow table, ``records.INTERACTIONS``).
        items: by id.
        store: the evidence, as the tools answer.
        config: the recipe's sections.
    """

    def __init__(self, run: Run, parts: Sequence[str] = (*DATA, "store", "config")) -> None:
        self._run, self._parts = run, parts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._parts:
            raise AttributeError(f"{type(self).__name__} object has no attribute {name!r}")
        return getattr(self._run, name)


@dataclass(frozen=True)
class TablesRun(Run):
    """A folder of tables as a run, with an evidence store of its own or none.

    Attributes:
        run: the folder of tables.
        place: of the store.
        visible_file: the interactions that the store was built from.
        scenario: of the store.
        every: tasks whose targets the store must not have seen.
        summarised: folder of summaries.
    """

    place: str | None
    visible_file: Path
    scenario: str
    every: Sequence[Task]
    summarised: str | None = None

    @property
    def tables(self) -> Path:
        return self.folder

    @property
    def known_tasks(self) -> Sequence[Task]:
        return self.every

    @cached_property
    def visible(self) -> Any:
        if not self.visible_file.exists():
            raise StarError(
                f"there are no visible interactions {self.visible_file}",
                "name the file the store was built from with --visible",
            )
        return read_interactions(self.visible_file)

    @cached_property
    def store(self) -> Any:
        """The store, opened with its origin; None without one."""
        if not self.place:
            return None
        contains = contains_of(self.visible, self.every)
        store = EvidenceStore.open(self.place, self.scenario, visible_fingerprint(self.visible_file))
        store.check_targets(self.every, contains)
        return store

    @cached_property
    def summaries(self) -> Summaries | None:
        """The summaries; with a store, they must be of the same visible interactions."""
        if not self.summarised:
            return None
        origin = (self.scenario, visible_fingerprint(self.visible_file)) if self.place else ()
        return Summaries.open(self.summarised, *origin)
