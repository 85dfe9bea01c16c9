"""The page of results and the curves, made from the folders of small runs."""

import re

import pytest

from benchmarks.curves import CURVES, trust_shares
from benchmarks.harness import ROOT
from benchmarks.results import main
from star_rl.evaluation import paper
from star_rl.evaluation.tasks import read_tasks, write_tasks
from star_rl.files import write_json, write_text
from star_rl.pipeline.stage import source_digest
from tests.evaluation.studies.test_ablation import FAIR, GOOD, POOR, RECIPE, evaluated
from tests.report.logs import row, write

BEST = f"{paper.RULES} strategy=history"


def stage(folder, name, seconds, summary, **key):
    versions = {"versions": {"torch": "2.0"}, "code": key or {"star_rl.files": source_digest("star_rl.files")}}
    made = {"key": versions, "seconds": seconds, "finished": "2026-01-02T03:04:05Z", "figures": {"summary": summary}}
    write_json(folder / name / "manifest.json", made)


def trained(folder, seed, star, name="learn", names="slots"):
    """A run's folder: data shared by all seeds, training of its own, an evaluation and GRPO's logs."""
    rest = {paper.RULES: FAIR, BEST: GOOD, "fusion": GOOD, "sft": FAIR, "star": star, "star evidence=none": POOR}
    evaluated(folder, random=POOR, popularity=POOR, **rest)
    text = RECIPE.replace("name: small", f"name: {name}\ntrain_seed: {seed}").replace(
        "top: 10", f"top: 5, names: {names}"
    )
    write_text(folder / "recipe.yaml", text)
    stage(folder, "tables", 30, "60 items")
    stage(folder, "sft", 60 * seed, "loss 0.2")
    (folder / "tasks").mkdir()
    write_tasks(folder / "tasks/test.parquet", read_tasks(folder / "evaluate/tasks.parquet"))
    write(folder / "sft/swift/logging.jsonl", [{"loss": 1.0 / k, "global_step/max_steps": f"{k}/9"} for k in (1, 2, 3)])
    log = {"critic/score/mean": 0.5, "actor/entropy": 0.1, "reward/valid_list/mean": 0.9}
    write(folder / "grpo/metrics.jsonl", [row(step, **log) for step in (1, 2, 3)])
    for step in (1, 2):
        said = ["Trust: whole history.", "Trust: recent item."][: 3 - step] * step
        turns = [[{"role": "assistant", "content": text}] for text in said]
        write(folder / f"grpo/details/{step}.jsonl", [{"messages": turn} for turn in turns])
    return folder


@pytest.fixture
def runs(tmp_path):
    return [trained(tmp_path / f"learn-seed{seed}", seed, star) for seed, star in ((7, GOOD), (8, FAIR))]


def made(tmp_path, *words):
    out = tmp_path / "docs/results.md"
    assert main([*map(str, words), "--out", str(out), "--learning", str(tmp_path / "docs/learning")]) == 0
    return out.read_text()


def test_the_seeds_of_a_recipe_share_a_section(tmp_path, runs):
    text = made(tmp_path, *runs)
    assert re.search(r"star-rl run \w+ name=learn ", text) and "--seeds 2" in text
    assert re.search(r"\| star \| 69.4 \[[\d., ]+\] \| \S+ \| ", text)  # the mean of 94.4 and 44.4
    assert "| star minus sft | +50.0 [+16.7, +83.3] | +0.0 [+0.0, +0.0] | +25.0 [" in text
    assert f"`star` minus `{BEST}`" in text and "`star` minus `fusion`" in text
    assert "`star` minus `star evidence=none`" in text and "`sft` minus `popularity`" in text
    assert "| tables | 60 items | 0.5 | \u2013 |" in text and "| all |  | 7.5 | 8.0 |" in text
    assert (tmp_path / "docs/results/learn.svg").stat().st_size < 200_000 and "](results/learn.svg)" in text


def test_the_page_says_where_the_figures_come_from(tmp_path, runs):
    stage(runs[0], "sft", 60, "loss 0.2", **{"star_rl.files": "another", "star_rl.gone": "x"})
    text = made(tmp_path, *runs)
    assert "changed since: star" in text and "gone" in text and "torch 2.0" in text and "GiB" in text
    assert "temperature 0.7" in text and "training 7, 8" in text and "2026-01-02T03:04:05Z" in text


def test_a_recipe_on_the_same_tasks_is_compared_with_the_first(tmp_path, runs):
    ids = trained(tmp_path / "ids-seed7", 7, FAIR, "ids", "ids")
    text = made(tmp_path, *runs, ids)
    assert "### ids against learn" in text and "`prompt.names=ids`" in text
    assert re.search(r"\| star \| learn-seed7 \| ids-seed7 \| 6 \| -50.0 ", text)


def test_an_evaluation_has_a_section_and_is_no_run(tmp_path, runs):
    other = evaluated(tmp_path / "zero-shot", users="v", random=POOR, star=GOOD)
    text = made(tmp_path, other / "evaluate", *runs)
    assert text.index("## evaluate\n") < text.index("## learn\n")
    assert "against" not in text


def test_baselines_that_are_evaluated_once_join_the_runs_on_their_tasks(tmp_path, runs):
    other = evaluated(tmp_path / "once", random=POOR, mf=GOOD, sasrec=FAIR) / "evaluate"
    text = made(tmp_path, *runs, other)
    assert "## evaluate" not in text and "star-rl evaluate random mf sasrec --tasks runs/learn-seed7" in text
    assert "| mf | 94.4 [83.3, 100.0] | 94.4 [83.3, 100.0] |" in text
    assert "| star minus mf | +0.0 [+0.0, +0.0] | -50.0 [" in text


def test_remarks_are_kept_and_never_lost(tmp_path, runs, capsys):
    text = made(tmp_path, *runs)
    out = tmp_path / "docs/results.md"
    out.write_text(text.replace("<!-- remarks: learn -->\n", "<!-- remarks: learn -->\nGRPO is *lucky*.\n"))
    extra = tmp_path / "more.md"
    extra.write_text("## Evidence\n\nA table.")
    again = made(tmp_path, *runs, "--more", extra)
    assert "<!-- remarks: learn -->\nGRPO is *lucky*.\n<!-- end of remarks -->" in again and "## Evidence" in again
    assert main([str(trained(tmp_path / "games", 7, FAIR)), "--out", str(out)]) == 2
    assert "has remarks on learn" in capsys.readouterr().err and out.read_text() == again


def test_a_method_that_one_seed_lacks_is_named(tmp_path, runs):
    evaluated(runs[1], random=POOR, popularity=POOR, sft=FAIR, star=FAIR, **{paper.RULES: FAIR})
    assert f"not shown: `{BEST}`, `fusion`, `star evidence=none`" in made(tmp_path, *runs)


def test_the_curves_are_drawn_a_line_a_seed(tmp_path, runs):
    made(tmp_path, *runs)
    files = {path.stem: path.read_text() for path in (tmp_path / "docs/learning").glob("*.svg")}
    assert set(files) == {"reward", "entropy", "valid_list", "sft_loss", "trust"}
    assert "seed 8" in files["reward"] and "whole history" in files["trust"]
    assert all(len(text) < 200_000 for text in files.values())


def test_the_page_shows_every_curve_that_is_drawn():
    shown = re.findall(r"\]\(learning/(\w+)\.svg\)", (ROOT / "docs/learning.md").read_text())
    assert sorted(shown) == sorted((*CURVES, "sft_loss", "trust"))
    assert {path.stem for path in (ROOT / "docs/learning").iterdir()} == set(shown)


def test_trust_is_counted_over_all_rollouts_and_absent_without_rules(tmp_path, runs):
    assert trust_shares(runs) == {
        "whole history": [(1.0, 0.5), (2.0, 1.0)],
        "recent item": [(1.0, 0.5), (2.0, 0.0)],
    }
    write(tmp_path / "other/grpo/details/1.jsonl", [{"messages": []}])
    assert trust_shares([tmp_path / "other"]) == {}


def test_a_seed_that_is_given_twice_is_refused(tmp_path, runs, capsys):
    again = trained(tmp_path / "other/learn-seed7", 7, FAIR)
    assert main([*map(str, (*runs, again)), "--out", str(tmp_path / "x.md")]) == 2
    assert "are both seed 7 of learn" in capsys.readouterr().err


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "x.md")]) == 2
    assert "metrics.json" in capsys.readouterr().err
