"""Runs every `comfy` test against each checkout named in COMFYUI_PATHS, with one server per checkout.

Where a checkout's virtual environment is looked for: see `host_python` in hosts.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from likeness_portraits.tests.comfy.hosts import WORKFLOW, Server, host_python, numbers_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "checkout" in metafunc.fixturenames:
        tests = metafunc.config.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
        checkouts = tests.comfy_checkouts()
        if "first_checkout_only" in metafunc.fixturenames:
            checkouts = checkouts[:1]
        metafunc.parametrize("checkout", checkouts, ids=[path.name for path in checkouts], scope="session")


@pytest.fixture
def first_checkout_only() -> None:
    """For tests of what does not depend on ComfyUI's version."""


@pytest.fixture(scope="session")
def python(checkout: Path) -> Path:
    """The Python that runs the checkout."""
    found = host_python(checkout)
    if found is None:
        pytest.skip(f"{checkout} has no virtual environment: make {checkout.parent}/.venv-{checkout.name}")
    return found


@pytest.fixture(scope="session")
def server(checkout: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with the working tree as its pack."""
    server = Server(checkout, tmp_path_factory.mktemp("comfyui"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nodes(server: Server) -> dict[str, Any]:
    """What the server says about its nodes."""
    return server.nodes()


@pytest.fixture(scope="session")
def workflow() -> dict[str, Any]:
    """The bundled workflow, as the editor saved it."""
    return json.loads(WORKFLOW.read_text("utf-8"))


@pytest.fixture(scope="module")
def measured(
    request: pytest.FixtureRequest, checkout: Path, python: Path, package_parent: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:  # fmt: skip
    """What the module's SCRIPT measures in this ComfyUI, in an empty folder."""
    folder = tmp_path_factory.mktemp("measured")
    return numbers_of(request.module.SCRIPT, python, checkout, package_parent, folder)


@pytest.fixture(scope="module")
def known(measured: dict[str, Any]) -> dict[str, Any]:
    """The same, on hosts that know FLUX.2."""
    if "refused" in measured:
        pytest.skip("this ComfyUI has no FLUX.2")
    return measured
