"""Report what a run found: ``report.json``, one self-contained page, charts and tables."""

from star_rl.report.model import (
    Curve,
    Example,
    ExampleTask,
    Grpo,
    HistoryItem,
    Method,
    Pair,
    Report,
    Rollout,
    Run,
    Sft,
    checked,
    load,
)
from star_rl.report.page import render_page, write_report

__all__ = [
    "Curve",
    "Example",
    "ExampleTask",
    "Grpo",
    "HistoryItem",
    "Method",
    "Pair",
    "Report",
    "Rollout",
    "Run",
    "Sft",
    "checked",
    "load",
    "render_page",
    "write_report",
]
