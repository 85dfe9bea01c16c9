"""Hook of mkdocs: pages that are made of other files - README, CONTRIBUTING, CHANGELOG, examples and the public API."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import star_rl

COPIES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
EXAMPLES = (
    "quickstart",
    "custom_reward",
    "custom_method",
    "custom_source",
    "search_tool",
    "rejecting_user",
    "mcp_server",
    "recommend",
)
ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):<code>~?(?:star_rl\.|rewards\.)?([\w.]+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages; links of the README point into ``docs/``."""
    pages = {page: Path(name).read_text(encoding="utf-8").replace("](docs/", "](") for page, name in COPIES.items()}
    pages |= {"api.md": api(), "examples.md": examples()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def api() -> str:
    """Return the page of the public API: the groups of ``star_rl``'s docstring, each name by its own docstring."""
    parts = [
        "# Python API",
        "`from star_rl import ..` offers these names. They are stable; everything else may change.",
    ]
    for group, names in re.findall(r"^(\w+) {2,}(:.*)$", star_rl.__doc__ or "", re.MULTILINE):
        parts.append(f"## {group}")
        for name in re.findall(r"`(\w+)`", names):
            parts.append(f"::: star_rl.{name}")
            if name == "Recipe":
                parts.append(sections())
    return "\n\n".join(parts) + "\n"


def sections() -> str:
    """Return the sections of a recipe as a table."""
    kinds = typing.get_type_hints(star_rl.Recipe)
    made = {name: inspect.cleandoc(kind.__doc__).replace("\n", " ") for name, kind in kinds.items() if kind.__doc__}
    own = {name: text for name, text in made.items() if kinds[name].__module__ == star_rl.Recipe.__module__}
    return "\n".join(["| section | options |", "| --- | --- |", *(f"| `{name}` | {own[name]} |" for name in own)])


def examples() -> str:
    """Return the page of the scripts in ``examples/``."""
    scripts = {name: Path("examples", f"{name}.py").read_text(encoding="utf-8") for name in EXAMPLES}
    return "# Examples\n\n" + "\n\n".join(f"## {name}.py\n\n```python\n{text}```" for name, text in scripts.items())


def on_page_content(html: str, **_: Any) -> str:
    """Show Sphinx's roles in docstrings as plain code."""
    return ROLE.sub(r"<code>\1</code>", html)
