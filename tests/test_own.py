"""Tools and environments by their names: what is loaded, what is refused, and what the stages' keys hold."""

from types import SimpleNamespace

import pytest

from star_rl import own
from star_rl.errors import StarError

TOOL = """
from star_rl.own import BadArguments

def schema_of(name, **changed):
    parameters = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    function = {"name": name, "description": "Say a word.", "parameters": parameters, **changed}
    return {"type": "function", "function": function}

def say(word):
    return word * 2

say.schema = schema_of("Say")

class Count:
    schema = schema_of("Count")
    made = 0

    def __init__(self, data):
        Count.made += 1
        self.data = data

    def __call__(self, word):
        return f"{word}: {len(self.data.items)}"

class Broken:
    schema = schema_of("Broken")

    def __init__(self, data):
        raise OSError("no index")

def bare(word):
    return word

def misnamed(word): ...
misnamed.schema = schema_of("two words")
def undescribed(word): ...
undescribed.schema = schema_of("Undescribed", description=None)
def odd(word): ...
odd.schema = schema_of("Odd", parameters={"type": "odd"})
def flat(word): ...
flat.schema = {"name": "Flat", "type": "function", "function": None}
def taken(word): ...
taken.schema = schema_of("ItemCF")

class Talk:
    begun = []

    def __init__(self, data):
        self.data = data

    def reset(self, task):
        Talk.begun.append(task["task_id"])
        self.turns = 0

    def step(self, text):
        self.turns += 1
        return f"{text} {self.turns}" if self.turns < 3 else None
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TOOL)
    return path


def test_a_function_and_a_class_are_tools_by_the_names_in_their_schemas(file):
    names = [f"{file}:say", f"{file}:Count"]
    tools = own.open_tools(names, SimpleNamespace(items=[1, 2]))
    assert {name: tool.answer({"word": "ha"}) for name, tool in tools.items()} == {
        "Say": ("haha", None),
        "Count": ("ha: 2", None),
    }
    assert [text.count('"Say"') for text in own.schemas(names)] == [1, 0]


def test_a_module_s_tool_is_found_by_the_module_s_name(file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    assert own.open_tools(["mine:say"], None)["Say"].answer({"word": "ha"})[0] == "haha"
    assert set(own.code_of({"tools": {"own": ["mine:say", f"{file}:say"]}}).values()) == {own.sha256(file)}


@pytest.mark.parametrize(
    "name, said",
    [
        ("bare", "is no tool"),
        ("nothing", "there is no tool at"),
        ("misnamed", "has no form"),
        ("flat", "has no form"),
        ("undescribed", "lacks a description"),
        ("odd", "no JSON schema"),
        ("taken", "a second tool ItemCF"),
        ("Broken", "cannot be made .OSError: no index"),
    ],
)
def test_what_is_no_tool_is_refused(file, name, said):
    with pytest.raises(StarError, match=said):
        own.open_tools([f"{file}:{name}"], None)


def test_names_that_lead_nowhere_are_refused(file):
    (file.parent / "broken.py").write_text("1 / 0")
    for name, said in (
        (f"{file.parent}/absent.py:say", "there is no Python file"),
        (f"{file.parent}/broken.py:say", "cannot be imported: ZeroDivisionError"),
        ("no_such_package:say", "there is no tool at"),
        ("", "there is no tool at"),
    ):
        with pytest.raises(StarError, match=said):
            own.schemas([name])
    with pytest.raises(StarError, match="a second tool Say"):
        own.schemas([f"{file}:say"] * 2)


def test_an_environment_is_made_and_reset_for_each_rollout(file):
    begin = own.open_environment(f"{file}:Talk", None)
    first, second = (begin(own.about(name, "u", ["1"])) for name in ("t1", "t2"))
    assert [first("a"), first("b"), second("a"), first("c")] == ["a 1", "b 2", "a 1", None]
    with pytest.raises(StarError, match="no environment"):
        own.open_environment(f"{file}:Count", None)
    with pytest.raises(StarError, match="there is no environment at"):
        own.open_environment(f"{file}:Nobody", None)


def test_the_keys_of_stages_hold_the_files(file):
    config = {"tools": {"own": [f"{file}:say", "mcp:http://host:1/mcp"]}, "loop": {"environment": f"{file}:Talk"}}
    before = own.code_of(config)
    assert set(before) == {f"{file}:say", f"{file}:Talk"}
    file.write_text(TOOL + "\n")
    assert set(own.code_of(config).items()).isdisjoint(before.items())
    assert own.code_of({"prompt": {}}) == own.code_of({"loop": {"environment": None}, "tools": {"own": []}}) == {}


def test_names_hold_in_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own.absolute("mine.py:Tool") == f"{tmp_path}/mine.py:Tool"
    for name in ("package.module:Tool", "mcp:python server.py", ""):
        assert own.absolute(name) == name
