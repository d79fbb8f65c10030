"""The files of reports; apart, as the pages take long to import."""

from pathlib import Path

from orchestrator.record.home import Home

FILE = "report.html"


def report_path(home: Home, name: str) -> Path:
    """The file of the report that a search writes at its end."""
    return home.search(name) / FILE


def comparison_path(home: Home, a: str, b: str) -> Path:
    """The file to which a comparison is written by default."""
    return home.search(a) / f"compared-with-{b}.html"
