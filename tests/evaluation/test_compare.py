"""Tables: the paper's layout, what is comparable, and what is refused."""

import json
from dataclasses import replace

import pytest

from star_rl.errors import StarError
from star_rl.evaluation import compare, paper, results
from star_rl.evaluation.results import Answer
from star_rl.evaluation.scores import score
from star_rl.evaluation.tasks import fingerprint_of, task_set, write_tasks
from star_rl.files import read_json, write_json
from star_rl.records import SCENARIOS, Task
from star_rl.report.grid import latex

IDS = tuple(f"i{number}" for number in range(20))


def tasks_of(source="amazon", scenario="classic", count=4):
    return [Task(f"{scenario}-{k}", source, scenario, f"u{k}", IDS, "i7", 5) for k in range(count)]


def evaluation(folder, tasks, methods=("a",), official=False, hits=2):
    """A folder as ``star-rl evaluate`` leaves it; the first ``hits`` tasks of each method hit."""
    made = task_set(tasks, 0, official)
    answers = [
        Answer(name, task, ["i7" if place < hits else "i1"], valid=True)
        for name in methods
        for place, task in enumerate(made.tasks)
    ]
    table = results.table_of(answers)
    write_tasks(folder / "tasks.parquet", made.tasks)
    cells = [
        {"source": source, "scenario": scenario, "n": len(own), "fingerprint": fingerprint_of(own)}
        for (source, scenario), own in made.cells.items()
    ]
    write_json(
        folder / "metrics.json",
        {
            **score(table, made.tasks, 1, 200, 0),
            "tasks": {"fingerprint": made.fingerprint, "official": official, "cells": cells},
            "notes": list(made.notes),
        },
    )
    return folder


def test_columns_stand_in_the_order_of_the_paper(tmp_path):
    tasks = [task for scenario in reversed(SCENARIOS) for task in tasks_of("yelp", scenario)]
    one = evaluation(tmp_path / "yelp", tasks)
    two = evaluation(tmp_path / "amazon", tasks_of("amazon", "long_term"))
    three = evaluation(tmp_path / "films", tasks_of("movielens"))
    found = compare.compare([three, one, two])
    assert [column.head for column in found.columns] == [
        "amazon Long", "yelp Classic", "yelp User-CS", "yelp Item-CS", "yelp Long", "yelp Short", "movielens Classic",
    ]  # fmt: skip
    table = compare.grid(found)
    count, row = table.lines
    assert table.heads[0] == "method" and count[1:] == ["4"] * 7
    assert table.groups == [("amazon", 1), ("yelp", 5), ("movielens", 1)]
    assert row[0] == "a" and row[1].startswith("50.0 [") and "]" in row[1]


def test_only_official_tasks_stand_beside_the_papers_figures(tmp_path):
    official = evaluation(tmp_path / "official", tasks_of(), official=True)
    own = evaluation(tmp_path / "own", tasks_of("goodreads"))
    found = compare.compare([official, own])
    assert [column.comparable for column in found.columns] == [True, False]
    table = compare.grid(found)
    assert table.groups == [("amazon", 1), ("goodreads", 1)] and table.heads == ["method", "Classic =", "Classic"]
    assert [f"STAR ({paper.PAPER})", "79.0", "\u2013"] in table.lines and compare.paper_grid(found) is None
    assert table.lines[-1] == [f"STAR minus MARS, points ({paper.PAPER})", "+10.6", "\u2013"]
    text = compare.markdown(found)
    assert (
        "amazon Classic =" in text and "Not comparable with the paper (a split of one's own): goodreads Classic" in text
    )
    assert "The paper has 100 tasks a sub-task; amazon Classic differ." in text
    data = compare.data(found)
    assert data["columns"][0]["paper"]["MARS"] == 68.4 and data["columns"][1]["paper"] is None
    assert "STAR (arXiv 2602.09829) & 79.0 & --" in latex(table)
    assert r" & \multicolumn{1}{c}{amazon} & \multicolumn{1}{c}{goodreads} \\" in latex(table)
    assert r"\cmidrule(lr){2-2} \cmidrule(lr){3-3}" in latex(table)


def test_official_tasks_of_another_source_have_no_figure_in_the_paper(tmp_path):
    found = compare.compare([evaluation(tmp_path / "x", tasks_of("agentsociety"), official=True)])
    assert not found.columns[0].comparable
    apart = compare.paper_grid(found)
    assert "not comparable" in apart.title and len(apart.heads) == 1 + 15 and apart.groups[0] == ("amazon", 5)
    assert apart.title in compare.markdown(found) and apart.title not in compare.markdown(found, whole=False)


def test_starecs_figures_stand_apart_where_the_source_is_one_of_its_own(tmp_path):
    films, cds = (evaluation(tmp_path / name, tasks_of(name)) for name in ("movielens", "amazon"))
    found = compare.compare([films])
    apart = compare.starec_grid(found)
    assert apart.groups == [("MovieLens 1M", 2)] and apart.heads == ["method", "NDCG@1", "NDCG@10"]
    assert apart.lines[0] == ["STARec, 7B", "55.40", "77.16"] and ["STARec, 1.5B", "51.30", "\u2013"] in apart.lines
    assert "not comparable" in apart.title and "public notes" in apart.title and all(row.paper for row in apart.rows)
    assert apart.title in compare.markdown(found) and apart.title not in compare.markdown(found, whole=False)
    both = compare.starec_grid(compare.compare([films, cds]))
    assert both.lines[0] == ["STARec, 7B", "55.40", "77.16", "68.30", "82.63"] and both.lines[1][3:] == ["\u2013"] * 2
    for official, source in ((True, "amazon"), (False, "goodreads")):
        other = evaluation(tmp_path / f"{official}", tasks_of(source), official=official)
        assert compare.starec_grid(compare.compare([other])) is None


def test_star_is_set_against_mars_on_each_sub_task(tmp_path):
    folder = evaluation(tmp_path / "x", tasks_of(), (paper.RULES, "star"))
    found = compare.compare([folder])
    mine, theirs = (found.methods[name]["amazon", "classic"]["hr_avg"] for name in ("star", paper.RULES))
    assert compare.grid(found).lines[-1] == ["star minus MARS (rules), points", f"{mine - theirs:+.1f}"]


def test_different_tasks_for_one_sub_task_are_refused(tmp_path):
    one = evaluation(tmp_path / "one", tasks_of(count=4))
    two = evaluation(tmp_path / "two", tasks_of(count=5))
    with pytest.raises(StarError, match="have different tasks for amazon Classic"):
        compare.compare([one, two])
    moved = [replace(task, ground_truth="i3") for task in tasks_of(count=4)]
    with pytest.raises(StarError, match="have different tasks"):
        compare.compare([one, evaluation(tmp_path / "three", moved)])


def test_one_method_of_two_folders_is_two_rows_on_the_same_tasks_and_one_on_different(tmp_path):
    one, two = (
        evaluation(tmp_path / name, tasks_of(), ("star", name), hits=hits) for name, hits in (("p", 1), ("q", 3))
    )
    found = compare.compare([one, two])
    assert set(found.methods) == {"star (p)", "star (q)", "p", "q"}
    other = evaluation(tmp_path / "r", tasks_of("yelp"), ("star",))
    assert set(compare.compare([one, other]).methods) == {"star", "p"}


def test_figures_of_another_task_set_are_refused(tmp_path):
    folder = evaluation(tmp_path / "one", tasks_of(count=4))
    write_tasks(folder / "tasks.parquet", tasks_of(count=3))
    with pytest.raises(StarError, match="are those of another task set"):
        compare.compare([folder])


def test_folders_that_are_no_evaluation_are_refused(tmp_path):
    with pytest.raises(StarError, match=r"there is no file .*metrics\.json"):
        compare.compare([tmp_path])
    (tmp_path / "metrics.json").write_text('{"n": 3, "methods": []}')
    with pytest.raises(StarError, match="is no evaluation of this version"):
        compare.compare([tmp_path])
    folder = evaluation(tmp_path / "old", tasks_of())
    scored = read_json(folder / "metrics.json")
    del scored["methods"][0]["calls"]
    write_json(folder / "metrics.json", scored)
    with pytest.raises(StarError, match="'calls' is missing"):
        compare.compare([folder])


def test_a_name_that_is_markup_stays_a_name(tmp_path):
    found = compare.compare([evaluation(tmp_path / "x", tasks_of(), ("a|b_*<i>", r"\end{tabular}"))])
    assert r"a\|b\_\*\<i\>" in compare.markdown(found)
    assert r"\textbackslash{}end\{tabular\}" in latex(compare.grid(found))


def test_the_three_files_are_written(tmp_path):
    found = compare.compare([evaluation(tmp_path / "x", tasks_of(), official=True)])
    markdown, source, data = compare.write(found, tmp_path / "out")
    assert markdown.read_text().startswith("**HR_avg, %, 95 % interval**")
    first = source.read_text().split(r"\end{tabular}")[0]
    assert first.count(r"\\") == 3 + 1 + len(paper.TABLE1) + 1 and source.read_text().count("tabular}{") == 7
    rows = read_json(data)["methods"]["a"]
    assert rows[0]["source"] == "amazon" and json.dumps(rows)


def test_the_papers_figures_are_those_of_its_tables():
    assert len(paper.TABLE1) == 12 and all(len(values) == 15 for values in paper.TABLE1.values())
    for name in ("MARS", "STAR"):
        assert {scenario: paper.TABLE1[name]["goodreads", scenario] for scenario in SCENARIOS} == paper.TABLE2[name]
    for name, values in paper.TABLE2.items():
        assert sum(values.values()) / 5 == pytest.approx(paper.TABLE2_AVERAGE[name], abs=0.06), name
    for source, (_, methods) in paper.BEST_OF_K.items():
        for name, values in methods.items():
            assert list(values) == sorted(values), (source, name)
    for source in paper.SOURCES:
        mean = sum(paper.TABLE1["STAR"][source, scenario] for scenario in SCENARIOS) / 5
        assert mean == pytest.approx(paper.BEST_OF_K[source][1]["STAR"][0], abs=0.06)
