"""Campaigns say what they counted at the end of pytest's report, whether they passed or not."""

from collections.abc import Callable

import pytest

COUNTS: list[str] = []


@pytest.fixture
def say() -> Callable[[str], None]:
    """Takes a line for the report."""
    return COUNTS.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("campaigns")
        for line in COUNTS:
            terminalreporter.line(line)
