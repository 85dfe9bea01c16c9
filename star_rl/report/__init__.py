"""What a run found, as people read it: ``report.json``, one self-contained page, curves and tables."""

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
    from_dict,
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
    "from_dict",
    "load",
    "render_page",
    "write_report",
]
