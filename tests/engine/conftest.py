"""What most tests of the engine begin with; a file that needs another base or folder has its own."""

from pathlib import Path

import pytest

from likeness_portraits.engine.bases.base import BaseModel, load_base
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.tests.engine import tiny_flux2
from likeness_portraits.tests.engine.tiny import tiny_base, write_person


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_person(tmp_path / "person")
    return tmp_path


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(BaseSpec.parse(str(tiny_flux2.write_folder(tmp_path_factory.mktemp("klein")))))
