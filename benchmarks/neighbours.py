"""Neighbours beside implicit, LensKit and a SciPy product.

    python benchmarks/neighbours.py [--runs 5] [--cases 1e6,1e7,games] [--only item,user,growth]

Every contender runs in a process of its own on the same two cores with two threads, and is timed from the users x items
CSR matrix in memory to its finished result (cosine, K = 50); loading data and importing libraries are not timed. Memory
is told twice, by one definition for all: the peak of the whole process, and how far the timed block rises above what
was resident when it began (interpreter, libraries, input).
SciPy's column is the product X^T X of the normalised matrix alone, with no selection of the best 50. star_rl-windows
counts in half-overlapping windows of 20 interactions; their order is random here, and the graph is built with it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np

sys.path.insert(0, str(harness.ROOT))

K = 50
THREADS = 2
#: Interactions of a window: what recipes of long histories take.
WINDOW = 20
#: Users whose neighbours are asked for in the user-user case: more than the tasks of a whole evaluation.
ASKED = 4000
PACKAGES = ("implicit", "lenskit", "scipy", "numpy", "pyarrow")
ITEM = ("star_rl", "star_rl-windows", "implicit", "lenskit", "scipy")
USER = ("star_rl-user", "implicit-user")


# ---------------------------------------------------------------- data


def synthetic(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, int, int]:
    """About ``n`` interactions with a realistic tail: (users, items, n_users, n_items), int32 codes, users ascending.

    Users have 4 + lognormal(1, 1) interactions; item weight is (rank + 50)^-0.7; 0.57 items a user; about 60 items a
    cluster, 1 to 3 clusters a user, 60 % of draws inside them.
    """
    draw = np.random.default_rng(seed)
    n_users = int(n / (4 + np.exp(1.5)))
    n_items = int(n_users * 0.57)
    degrees = 4 + np.rint(draw.lognormal(1.0, 1.0, n_users)).astype(np.int64)
    clusters = max(4, n_items // 60)
    weight = (np.arange(1, n_items + 1) + 50.0) ** -0.7
    cluster = draw.integers(0, clusters, n_items)
    order = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[order], np.arange(clusters + 1))
    inside, overall = np.concatenate([[0], np.cumsum(weight[order])]), np.cumsum(weight)
    mass = np.cumsum(inside[starts[1:]] - inside[starts[:-1]])
    users = np.repeat(np.arange(n_users, dtype=np.int32), degrees)
    size = len(users)
    topics = np.searchsorted(mass, draw.random((n_users, 3)) * mass[-1]).clip(0, clusters - 1)
    topic = topics[users, (draw.random(size) * draw.integers(1, 4, n_users)[users]).astype(np.int64)]
    low, high = inside[starts[topic]], inside[starts[topic + 1]]
    near = order[
        (np.searchsorted(inside, low + draw.random(size) * (high - low), side="right") - 1).clip(0, n_items - 1)
    ]
    far = np.searchsorted(overall, draw.random(size) * overall[-1]).clip(0, n_items - 1)
    ranks = np.where(draw.random(size) < 0.6, near, far)
    return users, draw.permutation(n_items)[ranks].astype(np.int32), n_users, n_items


def games(folder: Path) -> tuple[np.ndarray, np.ndarray, int, int]:
    """amazon-games-6k: each line a user, a history of items separated by spaces, and the last item."""
    users: list[str] = []
    items: list[str] = []
    lines = (folder / "Games-6k.test.inter").read_text(encoding="utf-8").splitlines()[1:]
    for line in lines:
        user, history, last = line.split("\t")
        row = [*history.split(), last]
        users += [user] * len(row)
        items += row
    user_ids, u = np.unique(users, return_inverse=True)
    item_ids, i = np.unique(items, return_inverse=True)
    return u.astype(np.int32), i.astype(np.int32), len(user_ids), len(item_ids)


def games_folder() -> Path | None:
    for root in (os.environ.get("STAR_RL_DATA"), harness.ROOT.parent / "shared" / "data"):
        if root and (Path(root) / "amazon-games-6k").is_dir():
            return Path(root) / "amazon-games-6k"
    return None


def case_file(case: str) -> Path:
    return harness.CACHE / f"neighbours-{case}.npz"


def prepare(case: str) -> dict[str, Any]:
    """Write the case's CSR matrix (deduplicated, indices ascending in rows) and tell its size."""
    if case == "games":
        folder = games_folder()
        assert folder is not None
        users, items, n_users, n_items = games(folder)
    else:
        users, items, n_users, n_items = synthetic(int(float(case)))
    pairs = np.unique(users.astype(np.int64) * n_items + items)
    indptr = np.zeros(n_users + 1, np.int32)
    np.cumsum(np.bincount(pairs // n_items, minlength=n_users), out=indptr[1:])
    file = case_file(case)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, indptr=indptr, indices=(pairs % n_items).astype(np.int32), n_items=n_items)
    # Item-item's two-hop paths, which are what is counted: from an item over each of its users to their items.
    paths = int((np.diff(indptr).astype(np.int64) ** 2).sum())
    return {"interactions": len(pairs), "users": n_users, "items": n_items, "paths": paths}


def load(case: str) -> tuple[np.ndarray, np.ndarray, int]:
    stored = np.load(case_file(case))
    return stored["indptr"], stored["indices"], int(stored["n_items"])


# ---------------------------------------------------------------- contenders


def run_star_rl(case: str, result: dict[str, Any]) -> Any:
    from star_rl import neighbours

    indptr, indices, n_items = load(case)
    with harness.measured(result):
        graph = neighbours.Graph.from_csr(indptr, indices, n_items)
        found = neighbours.item_neighbours(graph, k=K, threads=THREADS)
    return found


def run_star_rl_windows(case: str, result: dict[str, Any]) -> Any:
    import scipy.sparse  # noqa: F401  loading it is not timed

    from star_rl import neighbours

    indptr, indices, n_items = load(case)
    times = np.random.default_rng(3).permutation(len(indices))
    with harness.measured(result):
        users = np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))
        graph = neighbours.Graph.from_codes(users, indices, times, len(indptr) - 1, n_items)
        found = neighbours.item_neighbours(graph, k=K, window=WINDOW, threads=THREADS)
    return found


def asked_users(n_users: int) -> np.ndarray:
    return np.sort(np.random.default_rng(1).choice(n_users, min(ASKED, n_users), replace=False)).astype(np.int32)


def run_star_rl_user(case: str, result: dict[str, Any]) -> Any:
    from star_rl import neighbours

    indptr, indices, n_items = load(case)
    asked = asked_users(len(indptr) - 1)
    with harness.measured(result):
        graph = neighbours.Graph.from_csr(indptr, indices, n_items)
        found = neighbours.user_neighbours(graph, asked, k=K, threads=THREADS)
    extra: dict[str, Any] = {}
    with harness.measured(extra):
        neighbours.liked_items(graph, found, k=K, threads=THREADS)
    result["liked_seconds"] = extra["seconds"]
    return found


def matrix(case: str) -> Any:
    import scipy.sparse

    indptr, indices, n_items = load(case)
    values = np.ones(len(indices), np.float32)
    return scipy.sparse.csr_matrix((values, indices, indptr), shape=(len(indptr) - 1, n_items))


def run_implicit(case: str, result: dict[str, Any], extra: int = 0) -> Any:
    from implicit.nearest_neighbours import CosineRecommender

    users_items = matrix(case)
    model = CosineRecommender(K=K + extra, num_threads=THREADS)
    with harness.measured(result):
        model.fit(users_items, show_progress=False)
    return model.similarity


def run_implicit_user(case: str, result: dict[str, Any], extra: int = 0) -> Any:
    """implicit has no user-user call: the transposed matrix goes in, and all users come out."""
    from implicit.nearest_neighbours import CosineRecommender

    users_items = matrix(case)
    model = CosineRecommender(K=K + extra, num_threads=THREADS)
    with harness.measured(result):
        model.fit(users_items.T.tocsr(), show_progress=False)
    return model.similarity


def run_lenskit(case: str, result: dict[str, Any]) -> Any:
    import pandas
    from lenskit.data import from_interactions_df
    from lenskit.knn import ItemKNNConfig, ItemKNNScorer

    indptr, indices, _ = load(case)
    users = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    data = from_interactions_df(pandas.DataFrame({"user_id": users, "item_id": indices}))
    scorer = ItemKNNScorer(ItemKNNConfig(feedback="implicit", save_nbrs=K))
    with harness.measured(result):
        scorer.train(data)
    return scorer


def run_scipy(case: str, result: dict[str, Any]) -> Any:
    import scipy.sparse

    users_items = matrix(case)
    with harness.measured(result):
        norms = np.sqrt(np.maximum(np.bincount(users_items.indices, minlength=users_items.shape[1]), 1))
        normal = (users_items @ scipy.sparse.diags((1.0 / norms).astype(np.float32))).tocsr()
        product = normal.T.tocsr() @ normal
    return product


CONTENDERS = {
    "star_rl": run_star_rl,
    "star_rl-windows": run_star_rl_windows,
    "star_rl-user": run_star_rl_user,
    "implicit": run_implicit,
    "implicit-user": run_implicit_user,
    "lenskit": run_lenskit,
    "scipy": run_scipy,
}


# ---------------------------------------------------------------- the check


def best_rows(product: Any, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, weights) of the best K of each row of a similarity matrix, the row itself left out."""
    out = []
    for row in rows:
        span = slice(product.indptr[row], product.indptr[row + 1])
        ids, weights = product.indices[span], product.data[span]
        other = (ids != row) & (weights > 0)
        ids, weights = ids[other], weights[other]
        order = np.lexsort((ids, -weights))[:K]
        out.append((ids[order], weights[order]))
    return out


def differences(ours: Any, at: np.ndarray, theirs: list[tuple[np.ndarray, np.ndarray]], precision: float) -> int:
    """Rows that differ: weights by more than the precision, or ids of anything that does not tie with the last."""
    wrong = 0
    for position, (ids, weights) in zip(at, theirs, strict=True):
        span = slice(int(ours.indptr[position]), int(ours.indptr[position + 1]))
        mine, values = ours.indices[span], ours.weights[span]
        if len(mine) != len(ids) or not np.allclose(values, weights, rtol=precision, atol=0):
            wrong += 1
        elif len(ids):
            bar = float(values[-1]) * (1 + precision)
            wrong += set(mine[values > bar].tolist()) != set(ids[weights > bar].tolist())
    return wrong


def check(name: str, case: str) -> dict[str, Any]:
    """Compare 20,000 random rows with a peer's. implicit counts the row itself among its K, hence K + 1 there."""
    draw = np.random.default_rng(2)
    precision = 2e-5 if name == "scipy" else 2e-6  # SciPy sums in float32 here, implicit in float64
    if name == "implicit-user":
        ours = run_star_rl_user(case, {})
        theirs = run_implicit_user(case, {}, extra=1)
        at = np.arange(len(ours))
        rows = ours.codes
    else:
        ours = run_star_rl(case, {})
        rows = at = np.sort(draw.choice(len(ours), min(20_000, len(ours)), replace=False))
        theirs = run_implicit(case, {}, extra=1) if name == "implicit" else run_scipy(case, {})
    return {"rows": len(rows), "different": int(differences(ours, at, best_rows(theirs, rows), precision))}


# ---------------------------------------------------------------- the run


def compare(script: str, case: str, names: tuple[str, ...], runs: int, peers: tuple[str, ...]) -> dict[str, Any]:
    results = harness.in_turns(script, names, case, runs)
    out: dict[str, Any] = {name: harness.summary(rows) for name, rows in results.items()}
    first = out[names[0]]
    for name in names[1:]:
        out[name]["times"] = out[name]["seconds"] / first["seconds"]
        out[name]["times_cpu"] = out[name]["cpu"] / first["cpu"]
        out[name]["memory"] = first["peak"] / out[name]["peak"]
        out[name]["memory_above"] = first["above"] / max(out[name]["above"], 1e-9)
    out["checks"] = {peer: harness.child(script, f"check:{peer}", case) for peer in peers}
    if "star_rl-user" in results:
        out["liked_seconds"] = sorted(row["liked_seconds"] for row in results["star_rl-user"])[runs // 2]
    return out


def show(title: str, case: dict[str, Any], result: dict[str, Any], names: tuple[str, ...]) -> None:
    print(f"\n{title}: {case['interactions']:,} interactions, {case['users']:,} users, {case['items']:,} items\n")
    rows = []
    for name in names:
        r = result[name]
        ratios = ["1"] * 4 if "times" not in r else [r["times"], r["times_cpu"], r["memory"], r["memory_above"]]
        rows.append(
            [
                name,
                r["seconds"],
                f"{r['min']:.3g}..{r['max']:.3g}",
                int(r["runs"]),
                int(r["peak"]),
                int(r["start"]),
                int(r["above"]),
                *ratios,
            ]
        )
    head = [
        "contender",
        "median s",
        "range",
        "runs",
        "peak MiB",
        "at start",
        "above start",
        "x star_rl's s",
        "x its CPU s",
        "our peak / its",
        "above / above",
    ]
    print(harness.table(head, rows))
    for peer, found in result["checks"].items():
        print(f"same result as {peer}: {found['rows'] - found['different']} of {found['rows']} rows")


def growth(script: str, cases: Sequence[str], runs: int) -> dict[str, Any]:
    """Twice the interactions at the same mean degree, in turns.

    The recipe's tail decides how many two-hop paths come with twice the interactions; the table tells them beside the
    time, and the time of one path.
    """
    sizes = {case: harness.child(script, "prepare", case) for case in cases}
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for number in range(runs):
        for case in cases if number % 2 == 0 else cases[::-1]:
            results[case].append(harness.child(script, "star_rl", case))
    medians = {case: harness.summary(results[case]) for case in cases}
    figures = {case: {**medians[case], "paths": sizes[case]["paths"]} for case in cases}
    rows: list[list[object]] = []
    for before, case in zip((None, *cases[:-1]), cases, strict=True):
        size, found = sizes[case], medians[case]
        found["ns_per_path"] = 1e9 * found["seconds"] / size["paths"]
        row: list[object] = [
            size["interactions"],
            size["paths"],
            found["seconds"],
            f"{found['min']:.3g}..{found['max']:.3g}",
        ]
        row += [found["cpu"], found["ns_per_path"]]
        for name in ("seconds", "cpu", "paths"):
            if before is not None:  # sizes are not doubled to the last interaction
                twice = 2 * sizes[before]["interactions"] / size["interactions"]
                found[f"{name}_per_doubling"] = twice * figures[case][name] / figures[before][name]
            row.append(found.get(f"{name}_per_doubling", ""))
        rows.append(row)
    print(f"\nGrowth, {runs} runs\n")
    head = ["interactions", "paths", "median s", "range", "CPU s", "ns a path"]
    print(harness.table([*head, "s per doubling", "CPU s per doubling", "paths per doubling"], rows))
    return {"sizes": sizes, **medians}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--cases", default="1e6,1e7,games", help="sizes of synthetic data, and games (amazon-games-6k)")
    parser.add_argument("--runs-large", type=int, default=5, help="runs above 5 million interactions (default 5)")
    parser.add_argument("--runs-user-large", type=int, default=1, help="the same, user-user (implicit takes minutes)")
    parser.add_argument("--only", default="item,user,growth", help="parts to run")
    parser.add_argument("--growth", default="5e5,1e6,2e6,4e6", help="sizes of the growth, each twice the one before")
    options = harness.read_options(parser, cases="2e4", growth="1e4,2e4", runs=1)
    if options.worker:
        name, case = options.worker
        harness.two_cores(THREADS)
        if name == "prepare":
            result = prepare(case)
        elif name.startswith("check:"):
            result = check(name.removeprefix("check:"), case)
        else:
            result = {}
            CONTENDERS[name](case, result)
        print(json.dumps(result))
        return
    script, parts = str(Path(__file__).resolve()), options.only.split(",")
    report: dict[str, Any] = {"k": K, "threads": THREADS, "machine": harness.machine(PACKAGES)}
    for case in options.cases.split(",") if {"item", "user"} & set(parts) else ():
        if case == "games" and games_folder() is None:
            print("amazon-games-6k is not here (set STAR_RL_DATA): left out")
            continue
        size = harness.child(script, "prepare", case)
        large = size["interactions"] > 5_000_000
        runs, user_runs = (options.runs_large, options.runs_user_large) if large else (options.runs, options.runs)
        report[case] = {"size": size}
        if "item" in parts:
            found = report[case]["item"] = compare(script, case, ITEM, runs, ("implicit", "scipy"))
            show(f"Item-item, {case}", size, found, ITEM)
        if "user" in parts:
            found = report[case]["user"] = compare(script, case, USER, user_runs, ("implicit-user",))
            show(f"User-user, {case}: {ASKED} users asked for, beside implicit's full job", size, found, USER)
            print(f"liked items of those users: {found['liked_seconds']:.3g} s more")
    if "growth" in parts:
        report["growth"] = growth(script, options.growth.split(","), options.runs)
    harness.write_json(options.out or harness.CACHE / "neighbours.json", report)


if __name__ == "__main__":
    main()
