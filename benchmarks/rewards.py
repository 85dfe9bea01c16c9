"""Rewards and metrics on one core: scores a second, time against length, and metrics of a million rankings.

    python -m benchmarks.rewards --out .bench/rewards.json

Goals: 10,000 scores a second for responses of 2,000 tokens; time linear in the length whatever the text (nanoseconds
per character must not grow from 1 to 4 MB); 10^6 rankings in under 5 s; bootstrap of 1,500 tasks x 20 methods in under
10 s. One process; each figure is CPU time (all threads), the best of ``--rounds`` rounds, for scores the best of 40
times as many for each response. ``json.loads`` of 20 ids and a fixed loop of 100,000 rounds are timed beside them, to
tell machines and loads apart.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import calibration, read_options, write_json
from star_rl.evaluation import metrics
from star_rl.prompts.words import estimate_tokens
from star_rl.rewards.loading import NAMES, load
from star_rl.trajectory import CRITICAL, EXPERTS, ToolCall, compact_json, parse
from star_rl.trajectory.render import render_block

_TEXT = "the reader keeps returning to quiet stories set by water while newer picks lean towards history and travel"
_WORDS = _TEXT.split()

#: A response made irregular, so that rewards must read it tag by tag.
SPOILT: dict[str, Callable[[str], str]] = {
    "cut short": lambda text: text[:-40],
    "a tag too many": lambda text: f"{text}</plan>",
    "words between": lambda text: text.replace("<JSON>", "So: <JSON>"),
    "words before": lambda text: f"Let me see. {text}",
    "a tag before": lambda text: f"</plan>{text}",
    "two results a phase": lambda text: text.replace("<JSON>", "<JSON>[]</JSON><JSON>"),
    "no plan's end": lambda text: text.replace("</plan>", "", 1),
}

#: Text of about ``n`` characters that makes a naive pattern quadratic.
GROWING: dict[str, Callable[[int], str]] = {
    "prose": lambda n: "<plan><Thinking>" + "word " * (n // 5),
    "open brackets": lambda n: "<" * n,
    "bracket, then blanks": lambda n: "<Thinking><" + " " * n,
    "opening phases": lambda n: "<recommend>" * (n // 11),
    "closing phases": lambda n: "</recommend>" * (n // 12),
    "opening blocks": lambda n: "<JSON>" * (n // 6),
    "empty blocks": lambda n: "<plan>" + "<JSON></JSON>" * (n // 13),
    "empty calls": lambda n: "<tool_call></tool_call>" * (n // 23),
    "whole phases": lambda n: "<plan></plan>" * (n // 13),
    "nested JSON": lambda n: "<recommend><JSON>" + "[" * n + "</JSON></recommend>",
    "long integers": lambda n: "<recommend><JSON>[" + "9" * n + "]</JSON></recommend>",
    "many integers": lambda n: "<recommend><JSON>[" + f"{'9' * 400}," * (n // 401) + "1]</JSON></recommend>",
    "backslashes": lambda n: '<recommend><JSON>["' + "\\" * (n // 2 * 2) + '"]</JSON></recommend>',
    "a long list": lambda n: "<recommend><JSON>[" + '"3", ' * (n // 5) + '"7"]</JSON></recommend>',
}


def response(tokens: int, seed: int) -> str:
    """A well formed response of about that many tokens: five agents' thoughts and lists, four tool calls, 20 ids."""
    source = random.Random(seed)
    items = [f"B{source.randrange(10**9):09d}" for _ in range(20)]

    def whole(words: int) -> str:
        def thought() -> str:
            return f"<Thinking>{' '.join(source.choices(_WORDS, k=words))}</Thinking>"

        def phase(tag: str, result: Any, calls: int = 0) -> str:
            called = "".join(
                f"{render_block(ToolCall('ItemCF', {'item_id': items[number]}))}\n" for number in range(calls)
            )
            after = f"{thought()}\n" if calls else ""
            return f"<{tag}>\n{thought()}\n{called}{after}<JSON>{compact_json(result)}</JSON>\n</{tag}>"

        lists = [[" ".join(source.choices(_WORDS, k=8)) for _ in range(4)] for _ in EXPERTS]
        return "\n".join(
            [
                phase("plan", list(EXPERTS)),
                *(phase(tag, entry, 1) for tag, entry in zip(EXPERTS.values(), lists, strict=True)),
                phase("reflection", {"correct": "yes"}),
                phase("recommend", items),
            ]
        )

    words = 4
    while estimate_tokens(whole(words)) < tokens:
        words += 2
    return whole(words)


def best(rounds: int, run: Callable[[], Any]) -> float:
    """CPU seconds of the fastest round."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


def throughput(rounds: int, tokens: int = 2000, count: int = 50) -> dict[str, Any]:
    """Scores a second by reward, over different responses."""
    texts = [response(tokens, seed) for seed in range(count)]
    lists = [json.loads(text.rsplit("<JSON>", 1)[1].split("</JSON>")[0]) for text in texts]
    truths = [ids[seed % 20] for seed, ids in enumerate(lists)]
    rollout = {"unknown_tools": 0, "bad_arguments": 0}
    infos = [{"candidates": sorted(ids), "required": list(CRITICAL), "rollout": rollout} for ids in lists]
    result: dict[str, Any] = {
        "tokens": sum(map(estimate_tokens, texts)) / count,
        "characters": sum(map(len, texts)) / count,
    }

    def rate(name: str, written: list[str]) -> float:
        score = load(name)
        calls = [
            functools.partial(score, "bench", text, truth, info)
            for text, truth, info in zip(written, truths, infos, strict=True)
        ]
        return count / sum(best(40 * rounds, call) for call in calls)

    result["scores_per_second"] = {name: rate(name, texts) for name in NAMES}
    result["irregular_per_second"] = {name: rate("star", [*map(spoil, texts)]) for name, spoil in SPOILT.items()}
    result["parses_per_second"] = count / sum(best(40 * rounds, functools.partial(parse, text)) for text in texts)
    sample = json.dumps([f"B{number:09d}" for number in range(20)])
    result["json_loads_us"] = best(200 * rounds, lambda: json.loads(sample)) * 1e6
    result["calibration_ms"] = calibration()
    return result


def growth(rounds: int, unit: int) -> dict[str, dict[str, float]]:
    """Nanoseconds per character by text and length: one, two and four units."""
    score = load("star")
    result: dict[str, dict[str, float]] = {}
    for name, make in GROWING.items():
        result[name] = {}
        for size in (unit, 2 * unit, 4 * unit):
            text = make(size)
            seconds = best(rounds, lambda text=text: score("bench", text, "7", {}))  # type: ignore[misc]
            result[name][str(size)] = seconds * 1e9 / len(text)
    return result


def metrics_of(rounds: int, count: int) -> dict[str, float]:
    """Seconds for that many rankings (a million), and for bootstrap intervals of 20 methods over 1,500 tasks."""
    source = random.Random(0)
    items = [str(number) for number in range(20)]
    lists = [source.sample(items, 20) for _ in range(count)]
    truths = [items[number % 20] for number in range(len(lists))]
    found = metrics.ranks(lists, truths)
    methods = np.random.default_rng(0).integers(0, 21, (20, 1500))

    def intervals() -> None:
        metrics.bootstrap(metrics.hr_avg(methods), 10_000)
        for row in methods[1:]:
            metrics.paired(metrics.hr_avg(methods[0]), metrics.hr_avg(row))

    return {
        "ranks": best(rounds, lambda: metrics.ranks(lists, truths)),
        "hr_avg": best(rounds, lambda: metrics.hr_avg(found)),
        "bootstrap_20_x_1500": best(rounds, intervals),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--out", type=Path)
    arguments = read_options(options, rounds=1)
    unit = 10_000 if arguments.quick else 1_000_000
    report = {
        "machine": {"python": platform.python_version(), "processor": platform.processor() or platform.machine()},
        "throughput": throughput(arguments.rounds, count=5 if arguments.quick else 50),
        "growth_ns_per_character": growth(min(3, arguments.rounds), unit),
        "metrics_seconds": metrics_of(min(3, arguments.rounds), unit),
    }
    _print(report)
    if arguments.out:
        write_json(arguments.out, report)


def _print(report: dict[str, Any]) -> None:
    rates = report["throughput"]
    print(f"responses of {rates['tokens']:,.0f} tokens, {rates['characters']:,.0f} characters; one core")
    for name, rate in rates["scores_per_second"].items():
        print(f"  {name:24}{rate:>10,.0f} scores/s{1e6 / rate:>8.1f} us")
    for name, rate in rates["irregular_per_second"].items():
        print(f"  star, {name:18}{rate:>10,.0f} scores/s{1e6 / rate:>8.1f} us")
    print(f"  {'(parse alone)':24}{rates['parses_per_second']:>10,.0f} texts/s")
    print(f"  json.loads of 20 ids: {rates['json_loads_us']:.2f} us; a fixed loop: {rates['calibration_ms']:.2f} ms")
    growing = report["growth_ns_per_character"]
    sizes = list(next(iter(growing.values())))
    print("\nns per character at" + "".join(f"{int(size) / 1e6:>6g} MB" for size in sizes) + "   last / first")
    for name, row in growing.items():
        values = "".join(f"{row[size]:>9.1f}" for size in sizes)
        print(f"  {name:22}{values}{row[sizes[-1]] / row[sizes[0]]:>12.2f}")
    print()
    for name, seconds in report["metrics_seconds"].items():
        print(f"  {name:24}{seconds:>8.3f} s")


if __name__ == "__main__":
    main()
