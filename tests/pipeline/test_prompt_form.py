"""Prompts of training, validation and test tasks have one form, for each recipe of the paper's domains."""

import json

import pytest

from star_rl.layers import RECIPES
from star_rl.pipeline.recipe import load
from star_rl.pipeline.runner import run_recipe

ITEMS = {
    "amazon": {"main_category": "Music", "price": 9.5, "average_rating": 4.2, "rating_number": 7, "store": "Maker"},
    "goodreads": {"publication_year": 2001, "average_rating": 4.0, "ratings_count": 12, "text_reviews_count": 3},
    "yelp": {"city": "Tampa", "stars": 4.0, "review_count": 12},
}
DETAILS = {"amazon": "price", "goodreads": "ratings", "yelp": "Tampa"}


def generate(root, domain):
    """60 users with 12 reviews each, 80 items, 8 tasks of their own, in the benchmark's layout."""
    root.mkdir()
    items = [
        {"item_id": f"i{k}", "source": domain, "title": f"T{k}", "name": f"T{k}", **ITEMS[domain]} for k in range(80)
    ]
    users = [{"user_id": f"u{k}", "source": domain} for k in range(60)]
    reviews = [
        {"user_id": f"u{u}", "item_id": f"i{(7 * u + 3 * k) % 80}", "stars": 4.0, "text": "fine", "source": domain}
        | {"timestamp": 1_400_000_000 + 86_400 * (20 * u + k)}
        for u in range(60)
        for k in range(12)
    ]
    for name, rows in (("item", items), ("user", users), ("review", reviews)):
        (root / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = root / "task" / "classic" / domain
    for kind in ("tasks", "groundtruth"):
        (folder / kind).mkdir(parents=True)
    for u in range(8):
        truth = (7 * u + 33) % 80
        listed = [f"i{(truth + 5 * k) % 80}" for k in range(16)] + [f"i{(truth + 5 * k + 1) % 80}" for k in range(4)]
        task = {"type": "recommendation", "user_id": f"u{u}", "candidate_list": listed}
        (folder / "tasks" / f"task_{u}.json").write_text(json.dumps(task))
        (folder / "groundtruth" / f"groundtruth_{u}.json").write_text(json.dumps({"ground truth": f"i{truth}"}))


def test_every_recipe_of_a_domain_is_covered():
    named = {path.stem for path in RECIPES.glob("*.yaml") if load(path).source.name == "agentrecbench"}
    assert named == set(ITEMS)


@pytest.mark.parametrize("domain", ITEMS)
def test_all_parts_read_one_form(tmp_path, domain):
    generate(tmp_path / "data", domain)
    recipe = load(domain, [f"source.root={tmp_path / 'data'}", f"out={tmp_path}", "teacher.backend=rules"])
    run = run_recipe(recipe, ["tables", "tasks"])
    systems, kinds = set(), set()
    for part in ("train", "valid", "test"):
        tasks = run.tasks(part)
        assert tasks and {task.source for task in tasks} == {domain}
        system, user = run.messages(tasks[0])
        systems.add(system["content"])
        headings = tuple(line for line in user["content"].splitlines() if line.startswith("# "))
        candidates = user["content"].split("# Candidate")[1].splitlines()[1:21]
        kinds.add((headings, tuple(sorted({line.count("|") for line in candidates}))))
        assert all(DETAILS[domain] in line for line in candidates)
    assert len(systems) == len(kinds) == 1
