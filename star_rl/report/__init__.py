"""Report what a run found: ``report.json``, one self-contained page, charts and tables."""
