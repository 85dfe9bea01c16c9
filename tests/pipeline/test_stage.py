"""Stages: done stays done, a kill is never taken for done, and what changes is run again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from star_rl.errors import StarError
from star_rl.pipeline import stage as stages
from star_rl.pipeline.stage import MANIFEST, Context, Stage, run_stage, share_stage


def quiet(*_args, **_kwargs):
    return None


def copying(context: Context) -> dict:
    text = context.config["word"]
    for folder in context.inputs.values():
        text += (folder / "out.json").read_text()
    (context.folder / "out.json").write_text(text)
    return {"summary": f"{len(text)} characters"}


FIRST = Stage("first", copying)
SECOND = Stage("second", copying, reads=("first",))


def test_a_finished_stage_is_found_done(tmp_path):
    assert run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet).state == "ran"
    found = run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet)
    assert found.state == "done"
    assert found.manifest["figures"]["summary"] == "1 characters"
    assert found.manifest["outputs"]["out.json"]["bytes"] == 1


def test_what_a_body_does_to_its_config_changes_neither_its_key_nor_the_next_run(tmp_path):
    ran = []

    def changing(context: Context) -> dict:
        ran.append(dict(context.config["deep"]))
        context.config["deep"].setdefault("trainer", {})["steps"] = 2
        return {}

    config = {"deep": {"verl": 1}}
    stage = Stage("first", changing)
    states = [run_stage(stage, tmp_path, config, 1, quiet).state for _ in range(2)]
    assert (states, ran) == (["ran", "done"], [{"verl": 1}])
    assert config == {"deep": {"verl": 1}}
    assert run_stage(stage, tmp_path, {"deep": {"verl": 1}}, 1, quiet).manifest["key"]["config"] == config


@pytest.mark.parametrize("config, seed", [({"word": "b"}, 1), ({"word": "a"}, 2)])
def test_a_changed_option_or_seed_runs_again(tmp_path, config, seed):
    run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet)
    assert run_stage(FIRST, tmp_path, config, seed, quiet).state == "ran"


def test_what_changes_upstream_reaches_downstream(tmp_path):
    run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet)
    run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet)
    run_stage(FIRST, tmp_path, {"word": "b"}, 1, quiet)
    assert run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet).state == "ran"
    assert (tmp_path / "second" / "out.json").read_text() == "xb"


def test_a_missing_input_is_named(tmp_path):
    with pytest.raises(StarError, match=r"second reads first.*--from first"):
        run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet)


def test_a_finished_stage_is_shared_by_links_and_again_when_it_changed(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    share_stage(FIRST, one, two)
    assert not two.exists()
    for word in ("a", "b"):
        run_stage(FIRST, one, {"word": word}, 1, quiet)
        share_stage(FIRST, one, two)
        share_stage(FIRST, one, two)
        assert (two / "first/out.json").samefile(one / "first/out.json")
        assert run_stage(FIRST, two, {"word": word}, 1, quiet).state == "done"
    assert [path.name for path in two.iterdir()] == ["first"]
    run_stage(FIRST, two, {"word": "c"}, 1, quiet)
    assert (one / "first/out.json").read_text() == "b"


def test_a_costly_stage_is_shared_as_a_copy_and_what_it_replaces_moves_aside(tmp_path):
    costly, one, two = replace(FIRST, aside=True), tmp_path / "one", tmp_path / "two"
    run_stage(costly, one, {"word": "a"}, 1, quiet)
    run_stage(costly, two, {"word": "b"}, 1, quiet)
    (two / ".first.part").mkdir()  # a kill left it
    share_stage(costly, one, two, quiet)
    assert (two / "first/out.json").read_text() == "a"
    assert not (two / "first/out.json").samefile(one / "first/out.json")
    assert [path.read_text() for path in two.glob("first.old-*/out.json")] == ["b"]


def test_force_runs_again_from_an_empty_folder(tmp_path):
    run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet)
    (tmp_path / "first" / "left.txt").write_text("old")
    assert run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet, force=True).state == "ran"
    assert not (tmp_path / "first" / "left.txt").exists()


def test_a_failed_stage_leaves_no_manifest_and_may_resume(tmp_path):
    def fails_once(context: Context) -> dict:
        mark = context.folder / "progress.txt"
        if not mark.exists():
            mark.write_text("half")
            raise RuntimeError("engine died")
        return {"found": mark.read_text()}

    stage = Stage("first", fails_once)
    with pytest.raises(RuntimeError):
        run_stage(stage, tmp_path, {}, 1, quiet)
    assert not (tmp_path / "first" / MANIFEST).exists()
    outcome = run_stage(stage, tmp_path, {}, 1, quiet)
    assert (outcome.state, outcome.manifest["figures"]["found"]) == ("resumed", "half")


def test_an_interrupted_stage_under_other_options_starts_clean(tmp_path):
    def looks(context: Context) -> dict:
        mark = context.folder / "progress.txt"
        if mark.exists():
            return {"saw": mark.read_text()}
        if context.config["fail"]:
            mark.write_text("half")
            raise RuntimeError
        return {"saw": ""}

    stage = Stage("first", looks)
    with pytest.raises(RuntimeError):
        run_stage(stage, tmp_path, {"fail": True}, 1, quiet)
    assert run_stage(stage, tmp_path, {"fail": False}, 1, quiet).manifest["figures"]["saw"] == ""


def test_kill_9_then_the_same_command_goes_on(tmp_path):
    program = textwrap.dedent("""
        import os, sys, time
        from pathlib import Path
        from star_rl.pipeline.stage import Stage, run_stage
        def body(context):
            log = context.folder / "rows.txt"
            done = len(log.read_text().splitlines()) if log.exists() else 0
            for row in range(done, 20):
                with open(log, "a") as handle:
                    handle.write(f"{row}\\n")
                if row == 7 and len(sys.argv) > 2:
                    print("half", flush=True)
                    time.sleep(60)
            return {"started_at": done}
        outcome = run_stage(Stage("work", body), Path(sys.argv[1]), {}, 1, lambda *a, **k: None)
        print(outcome.state, outcome.manifest["figures"]["started_at"])
    """)
    first = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), "stall"], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "half\n"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert second.stdout == "resumed 8\n"
    assert (tmp_path / "work" / "rows.txt").read_text().splitlines() == [str(row) for row in range(20)]


def test_the_manifest_says_what_was_made(tmp_path):
    run_stage(FIRST, tmp_path, {"word": "a"}, 3, quiet)
    manifest = json.loads((tmp_path / "first" / MANIFEST).read_text())
    assert manifest["key"]["seed"] == 3
    assert manifest["key"]["config"] == {"word": "a"}
    assert len(manifest["outputs"]["out.json"]["sha256"]) == 64


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "first").write_text("in the way")
    with pytest.raises(StarError, match="cannot write"):
        run_stage(FIRST, tmp_path, {"word": "a"}, 1, quiet)


def test_what_does_not_decide_neither_runs_again_nor_is_in_the_key(tmp_path):
    seen = []
    stage = Stage(
        "first", lambda context: seen.append(context.config) or {}, decides=lambda config: {"word": config["word"]}
    )
    states = [run_stage(stage, tmp_path, {"word": "a", "memory": n}, 1, quiet).state for n in (1, 2)]
    assert (states, seen) == (["ran", "done"], [{"word": "a", "memory": 1}])
    assert run_stage(stage, tmp_path, {"word": "b", "memory": 2}, 1, quiet).state == "ran"


@pytest.mark.parametrize("word, force", [("b", False), ("a", True)])
def test_what_holds_hours_of_work_is_moved_aside(tmp_path, word, force):
    stage, said = Stage("first", copying, keep=("cache.txt",), aside=True), []
    run_stage(stage, tmp_path, {"word": "a"}, 1, quiet)
    for name in ("checkpoint.txt", "cache.txt"):
        (tmp_path / "first" / name).write_text("hours")
    assert run_stage(stage, tmp_path, {"word": word}, 1, quiet, force, said.append).state == "ran"
    (old,) = tmp_path.glob("first.old-*")
    assert {path.name for path in old.iterdir()} == {".key.json", MANIFEST, "checkpoint.txt", "out.json"}
    assert (tmp_path / "first" / "cache.txt").read_text() == "hours"
    assert not (tmp_path / "first" / "checkpoint.txt").exists()
    assert len(said) == 1 and f"moved to {old}" in said[0]


def test_folders_moved_aside_within_a_second_are_all_kept(tmp_path):
    stage = Stage("first", copying, aside=True)
    for word in "abcd":
        run_stage(stage, tmp_path, {"word": word}, 1, quiet, say=quiet)
    assert {path.read_text() for path in tmp_path.glob("first.old-*/out.json")} == set("abc")


@pytest.mark.parametrize("ended", [True, False])
def test_other_versions_are_said_and_run_nothing_again(tmp_path, monkeypatch, ended):
    installed = {"star-rl": "1", "torch": "2.0"}
    monkeypatch.setattr(stages, "versions", lambda packages: {name: installed[name] for name in packages})
    stage, said = Stage("first", copying, packages=("torch",)), []
    run_stage(stage, tmp_path, {"word": "a"}, 1, quiet, say=said.append)
    if not ended:
        (tmp_path / "first" / MANIFEST).unlink()
    installed["torch"] = "2.1"
    assert run_stage(stage, tmp_path, {"word": "a"}, 1, quiet, say=said.append).state == (
        "done" if ended else "resumed"
    )
    assert len(said) == 1 and "torch 2.0 -> 2.1" in said[0]
    assert run_stage(stage, tmp_path, {"word": "b"}, 1, quiet).state == "ran"


@pytest.fixture
def edited(monkeypatch):
    """Stages whose code is ``star_rl.mars``; the returned dict changes its digest as an edit does."""
    source = {"star_rl.mars": "before"}
    monkeypatch.setattr(stages, "source_digest", source.__getitem__)
    return source


CODED = Stage("first", copying, code=("star_rl.mars",))


def test_a_finished_stage_whose_code_was_edited_runs_again(tmp_path, edited):
    run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet)
    edited["star_rl.mars"] = "after"
    said = []
    assert run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet, say=said.append, same_code=True).state == "done"
    assert "star_rl.mars" in said[0]
    assert run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet).state == "ran"


def test_an_interrupted_stage_resumes_after_a_bug_was_mended(tmp_path, edited):
    run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet)
    (tmp_path / "first" / MANIFEST).unlink()
    edited["star_rl.mars"] = "after"
    assert run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet).state == "resumed"


def test_a_stage_that_wrote_the_same_bytes_again_makes_nothing_after_it_run(tmp_path, edited):
    run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet)
    run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet)
    edited["star_rl.mars"] = "after"
    assert run_stage(CODED, tmp_path, {"word": "a"}, 1, quiet).state == "ran"
    assert run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet).state == "done"


def test_an_incomplete_stage_feeds_later_stages_and_is_resumed(tmp_path):
    lost = [True, False]

    def body(context: Context) -> dict:
        return {**copying(context), "incomplete": lost.pop(0)}

    stage = Stage("first", body)
    assert run_stage(stage, tmp_path, {"word": "a"}, 1, quiet).state == "ran"
    assert run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet).state == "ran"
    assert run_stage(stage, tmp_path, {"word": "a"}, 1, quiet).state == "resumed"
    assert run_stage(stage, tmp_path, {"word": "a"}, 1, quiet).state == "done"
    assert run_stage(SECOND, tmp_path, {"word": "x"}, 1, quiet).state == "done"


def test_source_digests_tell_modules_apart_and_refuse_a_name_without_files():
    found = {name: stages.source_digest(name) for name in ("star_rl.mars", "star_rl.mars.rules", "star_rl.rewards")}
    assert len(set(found.values())) == 3
    with pytest.raises(StarError, match=r"star_rl\.marrs"):
        stages.source_digest("star_rl.marrs")
