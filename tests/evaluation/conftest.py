"""One small run as far as its evidence, and an engine that writes what it is told."""

import contextlib

import pytest

from star_rl.pipeline import chain, recipe, runner
from star_rl.policy.loop import Generation

END = 1


class Letters:
    """A tokenizer of letters."""

    def apply_chat_template(self, messages, tools=None, **options):
        return "".join(str(message["content"]) for message in messages)

    def encode(self, text, *, add_special_tokens=False):
        return [ord(letter) + 2 for letter in text]

    def decode(self, ids, **options):
        return "".join(chr(number - 2) for number in ids)

    def convert_tokens_to_ids(self, token):
        return END


class Engine:
    """Says its sentences in turn, or fails."""

    def __init__(self, *said, fails=False):
        self.said, self.fails, self.asked = list(said), fails, 0

    async def generate(self, prompt_ids, sampling, request_id):
        if self.fails:
            raise OSError("out of memory")
        text = self.said[self.asked % len(self.said)]
        self.asked += 1
        ids = Letters().encode(text)[: sampling["max_tokens"] - 1]
        return Generation([*ids, END], [-0.5] * (len(ids) + 1))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "empty.yaml").write_text("{}")
    options = [
        "source.options={users: 80, items: 60, categories: 6, shortest: 14, longest: 20}",
        "split.options={train_per_user: 2, max_test: 4, max_valid: 2}",
        "neighbours={items_k: 20, users_k: 10, liked_k: 20, threads: 1}",
        "evidence={size: short, budget: 6}",
        "prompt={profile: compact, history: 8, top: 10}",
        "tools={lens: candidates}",
        f"out={folder}",
        "name=small",
    ]
    runner.run(recipe.load(folder / "empty.yaml", options), chain.STAGES, until="evidence")
    for stage in ("sft", "grpo"):
        (folder / "small" / stage / "final").mkdir(parents=True)
        (folder / "small" / stage / "final" / "config.json").write_text("{}")
    return folder / "small"


@pytest.fixture
def engine(monkeypatch):
    """Put an engine in the place of vLLM."""
    from transformers import AutoTokenizer

    from star_rl.policy import replicas

    def put(*said, fails=False):
        made = Engine(*said, fails=fails)

        @contextlib.asynccontextmanager
        async def opened(model, options=None):
            put.options = options
            yield made

        monkeypatch.setattr(replicas, "open_engine", opened)
        monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **kwargs: Letters())
        return made

    return put
