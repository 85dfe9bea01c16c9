"""The report as one self-contained HTML page: no request leaves it, and no text that came from outside is markup.

Titles, ids and everything a model wrote are untrusted. The template escapes every value, the page's policy admits only
its own script and style by their hashes, and :mod:`star_rl.report.figure` builds SVG through escaping formats.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from star_rl.files import write_text
from star_rl.report import figure
from star_rl.report.curves import GRPO, LOGARITHMIC, SFT, Metric, finite
from star_rl.report.dialogue import panel
from star_rl.report.model import JSON_NAME, Curve, Report, from_dict, plain, save

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_NAME = "report.html"
DASH = "\u2013"
#: Rows of the table under a chart; longer curves are thinned evenly (report.json holds them whole).
_ROWS = 40
_TEMPLATES = Path(__file__).parent / "templates"
#: Control characters that HTML forbids even when escaped.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn figure, its legend and its numbers; ``note`` belongs to the numbers, ``remark`` to the figure."""

    title: str
    svg: Markup
    legend: list[tuple[Markup, str]]
    heads: list[str]
    rows: list[list[str]]
    note: str = ""
    remark: str = ""


def fixed(value: Any, digits: int = 1) -> str:
    """A number with so many digits; a dash where there is none. What would round to zero is not shown as zero."""
    if value is None or isinstance(value, str) or value != value:
        return DASH
    if 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits:.{digits}f}"
    return f"{value:,.{digits}f}"


def percent(value: Any, digits: int = 1) -> str:
    """A share in percent."""
    return DASH if value is None else fixed(value * 100, digits)


def duration(seconds: Any) -> str:
    """Seconds as a person says them."""
    if seconds is None or seconds != seconds:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def signed(value: Any) -> str:
    return DASH if value is None else f"{value:+.1f}".replace("-", "\u2212")


def pretty(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False, indent=2)


def _chart(
    name: str,
    title: str,
    parts: list[tuple[str, Curve]],
    unit: str,
    percents: bool = False,
    log: bool = False,
    resumed: Sequence[float] = (),
) -> Chart:
    scale = 100.0 if percents else 1.0
    series = [
        figure.Series(label, [(step, None if value is None else value * scale) for step, value in curve])
        for label, curve in parts
    ]
    steps = sorted({step for one in series for step, _ in finite(one.curve)})
    shown = steps if len(steps) <= _ROWS else [steps[round(i * (len(steps) - 1) / (_ROWS - 1))] for i in range(_ROWS)]
    columns = [dict(finite(one.curve)) for one in series]
    rows = [
        [figure.number(step), *(figure.number(column[step]) if step in column else DASH for column in columns)]
        for step in shown
    ]
    return Chart(
        title,
        figure.line_chart(name, title, series, unit, (0.0, 100.0) if percents else None, log, resumed),
        [(figure.swatch(index), one.name) for index, one in enumerate(series)] if len(series) > 1 else [],
        ["step", *(one.name for one in series)],
        rows,
        f"{_ROWS} of {len(steps)} steps" if len(shown) < len(steps) else "",
    )


def _single(prefix: str, key: str, curve: Curve, known: Mapping[str, Metric], resumed: Sequence[float] = ()) -> Chart:
    metric = known.get(key, Metric(key))
    return _chart(
        f"{prefix}-{re.sub(r'[^A-Za-z0-9_-]', '-', key)}",
        metric.title,
        [(metric.title, curve)],
        metric.unit,
        metric.percent,
        log=key in LOGARITHMIC,
        resumed=resumed,
    )


def _grpo_charts(curves: Mapping[str, Curve], resumed: Sequence[float]) -> tuple[list[Chart], list[Chart]]:
    """What a reader looks at first, always drawn; and the rest, drawn where there is something."""
    hits = [(GRPO[key].title, curves[key]) for key in ("hr1", "hr3", "hr5", "hr_avg") if finite(curves.get(key, []))]
    main = [
        _single("grpo", "reward", curves.get("reward", []), GRPO, resumed),
        _single("grpo", "format", curves.get("format", []), GRPO, resumed),
        _chart("grpo-hits", "Hit rate of the rollouts", hits, "%", percents=True, resumed=resumed),
        _single("grpo", "response_length", curves.get("response_length", []), GRPO, resumed),
    ]
    told = {"reward", "format", "hr1", "hr3", "hr5", "hr_avg", "response_length"}
    order = [key for key in GRPO if key in curves] + [key for key in curves if key not in GRPO]
    rest = [
        _single(f"grpo-more{index}", key, curves[key], GRPO, resumed)
        for index, key in enumerate(order)
        if key not in told and finite(curves[key])
    ]
    return main, rest


def _sft_charts(curves: Mapping[str, Curve]) -> list[Chart]:
    keys = ["loss", *(key for key in curves if key != "loss" and finite(curves[key]))]
    return [_single(f"sft{index}", key, curves.get(key, []), SFT) for index, key in enumerate(keys)]


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
    environment.filters.update(
        fixed=fixed, percent=percent, duration=duration, signed=signed, pretty=pretty, bar=figure.interval_bar
    )
    environment.globals["dash"] = DASH
    return environment


def rendered(template: str, **values: Any) -> str:
    """A template as a whole page: the style sheet and the script inside it, and a policy that admits nothing else."""
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_policy_hash(style)}; script-src {_policy_hash(script)}"
    )
    page = (
        _environment()
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), policy=policy, **values)
    )
    return _CONTROL.sub("\ufffd", page)


def render_page(report: Report) -> str:
    """The whole page as text."""
    main, rest = _grpo_charts(report.grpo.curves, report.grpo.resumed) if report.grpo else ([], [])
    examples = [
        (
            example.task,
            [panel("Before GRPO", example.before, example.task), panel("After GRPO", example.after, example.task)],
        )
        for example in report.examples
    ]
    return rendered(
        "page.html.jinja",
        report=report,
        run=report.run,
        total=sum(value for value in report.run.seconds.values() if value is not None),
        sft_charts=_sft_charts(report.sft.curves) if report.sft else [],
        grpo_charts=main,
        more_charts=rest,
        examples=examples,
    )


def write_report(run_dir: str | Path, report: Report | Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into a run's folder; returns their paths in this order.

    Raises:
        StarError: a mapping is not of the report's form, a number lies outside its unit, or the folder cannot be
            written.
    """
    checked = report if isinstance(report, Report) else from_dict(report)
    folder = Path(run_dir)
    html = render_page(checked)
    save(folder / JSON_NAME, checked)
    write_text(folder / PAGE_NAME, html)
    return folder / PAGE_NAME, folder / JSON_NAME
