"""One small run, made once; a test that changes it works on a copy (shutil.copytree)."""

import contextlib

import pytest

from tests import fakes


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a small run up to its evidence, with empty checkpoints of both students."""
    folder = fakes.make_run(tmp_path_factory.mktemp("runs"))
    for stage in ("sft", "grpo"):
        (folder / stage / "final").mkdir(parents=True)
        (folder / stage / "final" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def engine(monkeypatch):
    """Put an engine in the place of vLLM."""
    from transformers import AutoTokenizer

    from star_rl.policy import replicas

    def put(*said, fails=False):
        made = fakes.Engine(*said, fails=fails)

        @contextlib.asynccontextmanager
        async def opened(model, options=None):
            put.options = options
            yield made

        monkeypatch.setattr(replicas, "open_engine", opened)
        monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **kwargs: fakes.Letters())
        return made

    return put
