"""Campaigns say what they counted at the end of pytest's report, whether they passed or not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from likeness_portraits.tests.comfy.hosts import host_python

COUNTS: list[str] = []


@pytest.fixture
def say() -> Callable[[str], None]:
    """Takes a line for the report."""
    return COUNTS.append


@pytest.fixture
def checkout(request: pytest.FixtureRequest) -> Path:
    """The first ComfyUI that the `comfy` tests run against."""
    tests = request.config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    assert tests is not None
    found: Path = tests.comfy_checkouts()[0]
    if host_python(found) is None:
        pytest.skip(f"{found} has no virtual environment")
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("campaigns")
        for line in COUNTS:
            terminalreporter.line(line)
