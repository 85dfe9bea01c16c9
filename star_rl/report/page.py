"""Write the report as one self-contained HTML page: no request leaves it, and text from outside is never markup.

Titles, ids and everything a model wrote are untrusted: the template escapes every value, and the page's policy admits
only its own script and style by their hashes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from star_rl.files import write_json, write_text
from star_rl.report.charts import Chart
from star_rl.report.curve_charts import line_chart
from star_rl.report.curves import GRPO, LOGARITHMIC, SFT, Metric, finite
from star_rl.report.grid import DASH, TIPS, fixed, measured, methods, pairs
from star_rl.report.model import Curve, Report, checked, clean, plain
from star_rl.report.viewer import panel
from star_rl.trajectory.view import TITLES

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_NAME, JSON_NAME = "report.html", "report.json"
_TEMPLATES = Path(__file__).parent / "templates"


def duration(seconds: Any) -> str:
    """Return seconds as a person says them."""
    if seconds is None or seconds != seconds:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def pretty(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(plain(value), ensure_ascii=False, indent=2)


def _chart(name: str, key: str, curve: Curve, known: Mapping[str, Metric], resumed: Sequence[float] = ()) -> Chart:
    metric = known.get(key, Metric(key))
    safe = f"{name}-{re.sub(r'[^A-Za-z0-9_-]', '-', key)}"
    series = {metric.title: curve}
    return line_chart(safe, metric.title, series, metric.unit, metric.percent, key in LOGARITHMIC, resumed)


def _grpo_charts(curves: Mapping[str, Curve], resumed: Sequence[float]) -> tuple[list[Chart], list[Chart]]:
    """Return what a reader looks at first, always drawn, and the other curves that have points."""
    hits = {GRPO[key].title: curves[key] for key in ("hr1", "hr3", "hr5", "hr_avg") if finite(curves.get(key, []))}
    main = [_chart("grpo", key, curves.get(key, []), GRPO, resumed) for key in ("reward", "format", "response_length")]
    main.insert(2, line_chart("grpo-hits", "Hit rate of the rollouts", hits, "%", percent=True, resumed=resumed))
    told = {"reward", "format", "hr1", "hr3", "hr5", "hr_avg", "response_length"}
    order = [key for key in (*GRPO, *(key for key in curves if key not in GRPO)) if finite(curves.get(key, []))]
    rest = [key for key in order if key not in told]
    return main, [_chart(f"grpo-more{k}", key, curves[key], GRPO, resumed) for k, key in enumerate(rest)]


def _sft_charts(curves: Mapping[str, Curve]) -> list[Chart]:
    keys = ["loss", *(key for key in curves if key != "loss" and finite(curves[key]))]
    return [_chart(f"sft{k}", key, curves.get(key, []), SFT) for k, key in enumerate(keys)]


def _policy_hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fixed=fixed, duration=duration, pretty=pretty)
    environment.tests["measured"] = measured
    environment.globals.update(dash=DASH, tips=TIPS, phases=TITLES)
    return environment


def rendered(template: str, **values: Any) -> str:
    """Return a template as a whole page with its style sheet and script, and a policy that admits nothing else."""
    style, script = ((_TEMPLATES / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_policy_hash(style)}; script-src {_policy_hash(script)}"
    )
    made = _environment().get_template(template)
    return clean(made.render(style=Markup(style), script=Markup(script), policy=policy, **values))


def render_page(report: Report) -> str:
    """Return the whole page as text."""
    main, rest = _grpo_charts(report.grpo.curves, report.grpo.resumed) if report.grpo else ([], [])
    sides = [(("Before GRPO", one.before), ("After GRPO", one.after)) for one in report.examples]
    return rendered(
        "page.html.jinja",
        report=report,
        run=report.run,
        total=sum(value for value in report.run.seconds.values() if value is not None),
        methods=methods(report.methods),
        pairs=pairs(report.pairs),
        sft_charts=_sft_charts(report.sft.curves) if report.sft else [],
        grpo_charts=main,
        more_charts=rest,
        examples=[
            (one.task, [panel(heading, rollout, one.task) for heading, rollout in own])
            for one, own in zip(report.examples, sides, strict=True)
        ],
    )


def write_report(run_dir: str | Path, report: Report | Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a run's folder; return their paths in this order.

    Raises:
        StarError: the report is not of its form, a number lies outside its unit, or the folder cannot be written.
    """
    known, folder = checked(report), Path(run_dir)
    html = render_page(known)
    write_json(folder / JSON_NAME, plain(known))
    write_text(folder / PAGE_NAME, html)
    return folder / PAGE_NAME, folder / JSON_NAME
