"""Looking at runs: the terminal and the page."""

import asyncio
import io
import json
import re

import pytest
from rich.console import Console

from star_rl.errors import StarError
from star_rl.mars import identity_of, read_runs, teach, to_json
from star_rl.mars.view import find, show, verdict_of, write_page


@pytest.fixture
def runs(world, tmp_path):
    team = world.team()
    asyncio.run(teach(world.tasks, team, world.case, tmp_path / "runs", identity_of(team, {})))
    return tmp_path / "runs"


def data_in(page):
    text = page.read_text()
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL).group(1))


def test_page_holds_every_run_and_what_it_filters_by(world, runs, tmp_path):
    counts = write_page(runs, tmp_path / "page.html", world.items)
    data = data_in(tmp_path / "page.html")
    listed = list(read_runs(runs))
    assert counts["read"] == counts["shown"] == data["read"] == len(data["runs"]) == len(listed) == 40
    assert {row["id"] for row in data["runs"]} == {run.id for run in listed}
    assert {row["last"] for row in data["runs"]} == {""}, "no run failed"
    for row, run in zip(data["runs"], listed, strict=True):
        assert (row["source"], row["scenario"]) == (run.task.source, run.task.scenario)
        assert row["result"] == ("hit" if run.hit else "miss") and row["verdict"] == verdict_of(run)
        assert (row["verdict"] == "sent back") == run.corrected
        assert [tag for tag, *_ in row["phases"]] == [phase.tag for phase in run.trajectory.phases]
    assert "http" not in (tmp_path / "page.html").read_text().replace("application/json", "")


def test_hostile_words_do_not_leave_the_data(world, runs, tmp_path):
    lines = [to_json(run) for run in read_runs(runs)][:1]
    nasty = "</script><script>alert(1)</script>\u2028<!--"
    lines[0]["text"] = f"<plan>\n<Thinking>{nasty}</Thinking>"
    lines[0]["failure"] = {"kind": "malformed", "message": nasty}
    lines[0]["steps"][-1]["messages"] = [{"role": "assistant", "content": nasty}, {"role": "user", "content": "Again."}]
    (tmp_path / "x.jsonl").write_text(json.dumps(lines[0]) + "\n")
    write_page(tmp_path / "x.jsonl", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("</script>") == 2
    shown = data_in(tmp_path / "page.html")["runs"][0]
    assert (shown["failure"], shown["last"]) == (f"malformed: {nasty}", nasty)


def test_limit_is_said(runs, tmp_path):
    assert write_page(runs, tmp_path / "page.html", limit=7)["shown"] == 7
    assert data_in(tmp_path / "page.html")["read"] == 40
    with pytest.raises(StarError):
        write_page(runs, tmp_path / "page.html", limit=0)


def test_terminal_shows_phases_calls_and_the_truth(world, runs):
    run = find(runs, "t3")
    out = io.StringIO()
    show(run, Console(file=out, width=100, force_terminal=False), world.items)
    text = out.getvalue()
    for words in (run.id, "User profile", "-> UserCF", "<- ", "Recommend", run.task.ground_truth):
        assert words in text
    assert find(runs, "t3#0").id == run.id
    with pytest.raises(StarError, match="t999"):
        find(runs, "t999")


def test_escape_sequences_do_not_reach_the_terminal(runs, tmp_path):
    line = to_json(next(read_runs(runs)))
    line["text"] = "<plan>\n<Thinking>\x1b[2J\x1b]0;owned\x07</Thinking>\n</plan>"
    line["failure"] = {"kind": "malformed", "message": "\x1b[31m"}
    (tmp_path / "x.jsonl").write_text(json.dumps(line) + "\n")
    out = io.StringIO()
    show(next(read_runs(tmp_path / "x.jsonl")), Console(file=out, width=80, force_terminal=False))
    assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()
