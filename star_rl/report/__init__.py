"""Report what a run found: ``report.json``, one self-contained page, charts and tables."""

from star_rl.report.model import Report, load

__all__ = ["Report", "load"]
