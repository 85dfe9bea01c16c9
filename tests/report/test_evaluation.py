"""The page of an evaluation: what it says first, what it draws, and that whatever was written stays text."""

import json
import re

import pytest

from star_rl.errors import StarError
from star_rl.evaluation.compare import markdown
from star_rl.evaluation.tasks import digest, read_tasks
from star_rl.files import read_json, write_json
from star_rl.records import SCENARIOS, Item
from star_rl.report.cases import CONTEXTS, read_contexts, write_contexts
from star_rl.report.evaluation import render_evaluation, verdict, write_evaluation
from star_rl.report.findings import changes, gather

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"q\" 'q' & {{ 7*7 }} \x00\x08\ud800"
GOOD, POOR = [1, 1, 1, 2, 1, 1, 3, 1] * 3, [9, 20, 0, 7, 6, 9, 8, 15] * 3


def page_of(*folders, **more):
    found = gather(list(folders))
    return render_evaluation(found, changes(found), **more)


def heads(checker):
    return [attrs["id"] for tag, attrs in checker.tags if tag == "h2"]


def test_the_verdict_names_the_best_and_who_is_not_shown_to_be_worse(tmp_path, evaluation, check):
    near = [*GOOD[:-1], 2]
    folder = evaluation(tmp_path / "e", {"poor": POOR, "good": GOOD, "near": near, "writer": POOR}, writers=["writer"])
    told = verdict(gather([folder]))
    assert told.result.startswith("good is best: HR_avg 9") and "on 24 tasks" in told.result
    assert "holds zero): near." in told.words[0]
    assert "write trajectories writer is best: HR_avg 0.0" in told.words[1]
    assert told.comparable.startswith("Not comparable") and not told.problems
    checker = check(page_of(folder))
    assert told.result in checker.text and "No problem was found" in checker.text
    assert heads(checker) == ["methods", "table1", "tasks", "about"]


def test_problems_are_counted_and_said(tmp_path, evaluation, check):
    ranks = [1, None, None, 0, ..., 2, 1, 1]
    folder = evaluation(tmp_path / "e", {"a": ranks, "b": [1] * 8})
    told = verdict(gather([folder]))
    problems = told.problems
    assert problems[0].startswith("a: 2 of 7 answers failed and count as misses (2 x timeout: no answer within 300 s)")
    assert problems[1].startswith("e: a has answered 7 of 8 tasks so far")
    assert told.result.startswith("b, the only method that was asked every task") and not told.words[0].startswith("Ev")
    text = check(page_of(folder)).text
    assert all(words in text for words in problems) and f"Problems found: {len(problems)}" in text


def test_the_papers_figures_stand_beside_ours_only_on_its_own_tasks(tmp_path, evaluation, check):
    own = evaluation(tmp_path / "own", {"star": GOOD[:10]}, "goodreads", SCENARIOS)
    official = evaluation(tmp_path / "official", {"star": GOOD[:10]}, "amazon", SCENARIOS, official=True)
    text = check(page_of(own)).text
    assert "on other tasks: not comparable" in text and "STAR (paper)" not in text
    page = page_of(official)
    checker = check(page)
    assert "Comparable with the paper" in checker.text and "STAR (paper)" in checker.text
    assert page.count('class="paper-row"') == 13 and "Classic =" in checker.text and ">amazon</th>" in page
    assert "The paper has 100 tasks a sub-task" in checker.text
    both = check(page_of(own, official))
    assert "in part: amazon Classic" in both.text
    assert sum(attrs.get("id", "").startswith("cell-") and tag == "title" for tag, attrs in both.tags) == 10


def test_figures_are_drawn_only_where_their_data_are(tmp_path, evaluation, check):
    folder = evaluation(tmp_path / "e", {"star": GOOD, "sft": POOR}, writers=["star", "sft"])
    page = page_of(folder)
    assert "study-ablation" in page
    assert not re.search(r'id="(study-k|study-scaling|study-latency|corpus)', page)
    rows = [{"k": k, "hr_avg": 50.0 + k, "low": 40.0, "high": 60.0} for k in (1, 2)]
    curves = {"method": "star", "n": 24, "samples": 2, "curves": {"best": rows, "borda": rows}}
    same = digest(read_tasks(folder / "tasks.parquet"))
    write_json(folder / "best_of_k.json", {"methods": [curves], "tasks": same, "seed": 0})
    row = {"name": "star", "n": 9, "scripted": False, "p50": 0.2, "p95": 0.3, "p99": None, "calls": 4.0, "hr_avg": 50.0}
    row |= {
        "tokens_in": 100.0,
        "tokens_out": None,
        "tool_seconds": 0.0025,
        "prompt": "little",
        "tool_calls": 3.0,
        "failed": 0,
        "mean": 0.2,
    }
    slow = row | {"name": "MARS", "p50": 2.0, "scripted": True}
    ratios = {"MARS": {"ratio": 10.0, "low": 9.0, "high": 11.5}}
    write_json(folder / "latency.json", {"rows": [row, slow], "ratios": ratios, "base": "star", "tasks": same})
    cells = {f"{name}{end}": 5.0 for name in ("hr10", "hr20", "ndcg10", "ndcg20") for end in ("", "_low", "_high")}
    corpus = {"retriever": "item_knn", "method": "star", "depth": 60, "retrieved": 70.0, **cells}
    corpus |= {"n": 24, "failed": 3, "reasons": [["no answer", 3]]}
    write_json(folder / "corpus.json", {"rows": [corpus], "tasks": same, "items": 9, "seed": 0})
    sizes = {"star": {"parameters": 8_000_000}, "sft": {"parameters": 500_000}}
    other = evaluation(tmp_path / "f", {"star": GOOD, "sft": POOR}, writers=["star", "sft"], **sizes)
    checker = check(page_of(folder))
    assert {"figures", "corpus"} <= set(heads(checker))
    for words in (
        "Best of k: star, 24 tasks",
        "other tasks and hardware",
        "MARS (quality of the rules)",
        "MARS takes 10.0 times as long as star (median, 95 % 9.0 to 11.5). star reads little.",
        "tool ms",
        "p99: from 100 requests on",
        "5.0 [5.0, 5.0]",
        "star on what item_knn retrieved: 3 of 24 tasks failed and count as misses (3 x no answer)",
    ):
        assert words in checker.text
    assert "not comparable with the tables above" not in checker.text and "is that of all 24 tasks" in checker.text
    assert re.search(r'<td data-value="24">24</td><td data-value="3">3</td><td data-value="70.0">', page_of(folder))
    for name in ("best_of_k", "latency", "corpus"):
        study = read_json(folder / f"{name}.json")
        write_json(folder / f"{name}.json", {**study, "tasks": {**same, "classic-0": "another"}})
    told, strange = verdict(gather([folder])), check(page_of(folder)).text
    assert [words for words in told.problems if "belongs to other tasks" in words] == [
        f"e: what {name} measured belongs to other tasks, not to this evaluation's: it is shown by itself; do not "
        "compare it with the tables"
        for name in ("best-of-k", "latency", "corpus")
    ]
    for words in (
        "Best of k: star (other tasks), 24",
        "latency (other tasks), 9",
        "(other tasks, not comparable with the tables above)",
    ):
        assert words in strange
    assert "is that of all 24 tasks" not in strange
    write_json(folder / "corpus.json", {"rows": [corpus], "tasks": "x"})
    assert "corpus measured belongs to tasks unknown" in check(page_of(folder)).text
    page = page_of(other)
    assert "Sizes of the student" in check(page).text and "on Goodreads and other tasks: not comparable" in page
    write_json(folder / "latency.json", {"rows": [{"name": "star"}]})
    with pytest.raises(StarError, match="left in e is not of this version"):
        page_of(folder)
    (folder / "latency.json").write_text("[]")
    with pytest.raises(StarError, match="is not a result of star-rl latency"):
        page_of(folder)


def test_tables_stand_beside_the_page_as_markdown_and_latex(tmp_path, evaluation):
    folder = evaluation(tmp_path / "e", {"star": GOOD, "a_b": POOR}, "amazon", ("classic", "long_term"))
    cells = {f"{name}{end}": 5.0 for name in ("hr10", "hr20", "ndcg10", "ndcg20") for end in ("", "_low", "_high")}
    row = {"retriever": "item_knn", "method": "star", "depth": 60, "retrieved": 70.0, "n": 24, "failed": 0, **cells}
    write_json(folder / "corpus.json", {"rows": [row], "tasks": digest(read_tasks(folder / "tasks.parquet"))})
    write_evaluation([folder])
    text, source = ((folder / f"tables.{kind}").read_text() for kind in ("md", "tex"))
    for words in (
        "**Methods: quality and cost**",
        "| star | 9",
        "Each method minus star",
        "| a\\_b | -9",
        "| method | amazon Classic | amazon",
    ):
        assert words in text
    assert "star is best: HR_avg" in text and "say nothing of that" in text and "| item\\_knn | star | 60 |" in text
    assert r"\multicolumn{2}{c}{amazon}" in source and r"a\_b &" in source and source.count("toprule") == 10
    write_json(folder / "corpus.json", {"rows": [{}]})
    with pytest.raises(StarError, match="corpus left in e is not of this version"):
        write_evaluation([folder])


def test_the_table_of_an_ablation_is_drawn_from_its_runs(tmp_path, evaluation, check):
    folder = evaluation(tmp_path / "ablation-full" / "evaluate", {"star": GOOD}, writers=["star"])
    whole = {"hr_avg": 50.0, "hr_avg_low": 40.0, "hr_avg_high": 60.0, "n": 24}
    table2 = {"rows": {"STAR": {"overall": whole}, "STAR w/o Tools": {"overall": whole | {"hr_avg": 30.0}}}}
    page = page_of(folder, table2=table2)
    assert "STAR w/o Tools: 30 [40, 60]" in page and "ablation-full" in check(page).text


def test_what_changed_names_the_tasks_and_links_to_them(tmp_path, evaluation, check):
    before = evaluation(tmp_path / "before", {"star": POOR, "same": GOOD}, writers=["star"])
    after = evaluation(tmp_path / "after", {"star": [1, *POOR[1:-1], 15], "same": GOOD}, writers=["star"])
    found = gather([before, after])
    made = {one.method: one for one in changes(found)}
    assert set(found.methods) == {"star (before)", "star (after)", "same"}
    assert [found.tasks[place].task_id for place in made["star"].gained] == ["classic-0"] and not made["star"].lost
    assert made["star"].difference.mean == pytest.approx(100 / 24) and made["star"].values[0] == (0.0, 100.0)
    assert not made["same"].values
    checker = check(page_of(before, after))
    links = [attrs["href"] for tag, attrs in checker.tags if tag == "a" and attrs["href"].startswith("#case")]
    assert links and "Tasks gained by star, before to after" in checker.text
    assert "the same on every task" in checker.text


def test_sub_tasks_spread_over_folders_are_one_method(tmp_path, evaluation, check):
    one = evaluation(tmp_path / "one", {"star": GOOD[:8], "only": POOR[:8]}, "amazon")
    two = evaluation(tmp_path / "two", {"star": POOR[:8]}, "yelp")
    found = gather([one, two])
    assert found.methods["star"].figures["n"] == 16 and found.methods["only"].figures["n"] == 8
    assert found.methods["star"].figures["hr_avg"] == pytest.approx(100 * float(found.methods["star"].values.mean()))
    assert found.best == "star" and found.methods["only"].difference is None and not changes(found)
    check(page_of(one, two))


def test_runs_are_told_apart_by_their_names(tmp_path, evaluation):
    for name, ranks in (("a", GOOD), ("b", POOR)):
        evaluation(tmp_path / name / "evaluate", {"star": ranks, "random": POOR}, writers=["star"])
    found = gather([tmp_path / "a", tmp_path / "b" / "evaluate"])
    assert [one.label for one in found.compared.folders] == ["a", "b"]
    assert set(found.methods) == {"star (a)", "star (b)", "random"}
    with pytest.raises(StarError, match="given twice"):
        gather([tmp_path / "a", tmp_path / "a" / "evaluate"])


def test_text_from_outside_is_never_markup(tmp_path, evaluation, check):
    nasty = NASTY.encode("utf-8", "replace").decode()
    methods = {nasty: GOOD, "other": POOR}
    folder = evaluation(tmp_path / "e", methods, nasty, (nasty,), text=NASTY, writers=list(methods))
    tasks = read_tasks(folder / "tasks.parquet")
    items = {name: Item(name, nasty, (nasty,), {}) for name in tasks[0].candidates}
    write_contexts(folder, tasks, lambda task: [(name, 1, None) for name in ("i1", "i2", "gone")], items)
    checker = check(page_of(folder))
    assert "alert(1)" in checker.text and "{{ 7*7 }}" in checker.text
    assert "img" not in {tag for tag, _ in checker.tags}
    assert "</script><script>" not in page_of(folder)


@pytest.mark.parametrize("text", ["y" * 1_000_000, "<&>\"'" * 200_000, "<plan>" * 150_000, "<tool_call>{" * 80_000])
def test_long_output_is_cut_with_a_note(tmp_path, evaluation, check, text):
    folder = evaluation(tmp_path / "e", {"star": GOOD, "sft": POOR}, text=text, writers=["star", "sft"])
    page = page_of(folder)
    checker = check(page)
    assert re.search(r"[\d,]+ more characters, see the answers in e|more phases|more blocks", checker.text)
    assert len(page) < 2_000_000


def test_a_page_of_many_tasks_and_methods_stays_small(tmp_path, evaluation, check):
    methods = {f"method {k}": [1 + (k + place) % 19 for place in range(400)] for k in range(10)}
    one = evaluation(tmp_path / "one", methods, text="words " * 3000, writers=list(methods))
    two = evaluation(
        tmp_path / "two", dict(zip(methods, reversed(methods.values()), strict=True)), writers=list(methods)
    )
    page = page_of(one, two)
    checker = check(page)
    assert len(page.encode()) < 2_000_000
    assert sum(attrs.get("class") == "example fold" for _, attrs in checker.tags) == 60


def test_titles_and_the_end_of_the_history_are_kept(tmp_path, evaluation, check):
    folder = evaluation(tmp_path / "e", {"star": GOOD, "sft": POOR}, writers=["star"])
    tasks = read_tasks(folder / "tasks.parquet")
    items = {name: Item(name, f"Title {name}", (), {}) for name in tasks[0].candidates}
    history = [(f"i{k % 20}", k, None) for k in range(30)]
    write_contexts(folder, tasks, lambda task: history, items)
    about = read_contexts(folder, tasks)[tasks[0]]
    assert (len(about.history), about.earlier, about.titles["i7"]) == (8, 22, "Title i7")
    assert "Title i29" not in about.titles and about.history[-1].title == "Title i9"
    text = check(page_of(folder)).text
    assert "History (30)" in text and "22 earlier not listed" in text and "Title i7" in text
    (folder / CONTEXTS).write_bytes(b"nothing")
    with pytest.raises(StarError, match="holds no contexts"):
        page_of(folder)


def test_a_line_cut_by_a_kill_and_a_trace_of_nothing_are_no_trouble(tmp_path, evaluation, check):
    folder = evaluation(tmp_path / "e", {"star": GOOD, "sft": POOR}, writers=["star"])
    path = next(file for file in (folder / "answers").iterdir() if '"star"' in file.read_text()[:60])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, trace in zip(
        rows[1:], [None, 3, {}, {"messages": "no"}, {"messages": [1, {"role": "assistant"}]}], strict=False
    ):
        row["trace"] = trace
    path.write_text("\n".join(json.dumps(row) for row in rows) + '\n{"task_id": "classic-0", "sample": 0, "ran')
    check(page_of(folder))


def test_an_evaluation_of_one_method_or_of_none_stands(tmp_path, evaluation, check):
    assert "the only method" in check(page_of(evaluation(tmp_path / "one", {"a": GOOD}))).text
    folder = evaluation(tmp_path / "none", {"a": [...] * 4})
    assert "No method was asked every task" in check(page_of(folder)).text


def test_the_page_is_written_into_the_folder(tmp_path, evaluation, check):
    folder = evaluation(tmp_path / "e", {"a": GOOD, "b": POOR})
    assert write_evaluation([folder]) == folder / "report.html"
    check((folder / "report.html").read_text(encoding="utf-8"))
    assert write_evaluation([folder], tmp_path / "x.html").exists()


def test_a_pair_has_one_interval_everywhere(tmp_path, evaluation):
    folder = evaluation(tmp_path / "e", {"poor": POOR, "good": GOOD})
    scored = read_json(folder / "metrics.json")
    (pair,) = scored["pairs"]
    own = gather([folder]).methods["poor"].difference
    assert own == (-pair["difference"], -pair["high"], -pair["low"], pair["p"]) and pair["a"] == "good"
    pair |= {"a": "poor", "b": "good", "difference": -7.0, "low": -9.0, "high": -5.0, "p": 0.25}
    write_json(folder / "metrics.json", scored)
    assert gather([folder]).methods["poor"].difference == (-7.0, -9.0, -5.0, 0.25)


def test_lists_that_end_early_have_no_figures_that_look_further(tmp_path, evaluation, check):
    folder = evaluation(tmp_path / "e", {"few": GOOD, "all": GOOD}, few={"longest": 5})
    scored = read_json(folder / "metrics.json")
    for row in scored["cells"]:
        row["longest"] = 5 if row["name"] == "few" else 20
    write_json(folder / "metrics.json", scored)
    page = page_of(folder)
    few, every = (re.search(rf'data-value="{name}">{name}</th>.*', page)[0] for name in ("few", "all"))
    assert few.count("\u2013") - every.count("\u2013") == 3  # NDCG@10, NDCG@20 and MRR
    assert "few names at most 5 ids: nothing after that counts" in check(page).text
    assert "all names at most" not in page and "say nothing of that" in page
    text = markdown(gather([folder]).compared)
    assert "few names at most 5 ids" in text and text.count("| few | \u2013 |") == 3
    assert "look further in longer lists: NDCG@10, NDCG@20, MRR" in text
    for row in scored["cells"]:
        row["longest"] = 12
    write_json(folder / "metrics.json", scored)
    assert "few, all name at most 12 ids: nothing after that counts" in markdown(gather([folder]).compared)
    assert "look further in longer lists: NDCG@20\n" in markdown(gather([folder]).compared)
    for row in scored["cells"]:
        row["longest"] = 5
    write_json(folder / "metrics.json", scored)
    assert "few, all name at most 5 ids" in markdown(gather([folder]).compared)
