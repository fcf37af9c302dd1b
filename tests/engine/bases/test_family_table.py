"""The table of families: what files, shapes and token rows say of a base."""

import subprocess
import sys

import pytest

from likeness_portraits.engine.bases.families import FAMILIES, family_of_unet


def test_every_row_stands_under_its_own_key():
    assert all(key == row.key for key, row in FAMILIES.items())


@pytest.mark.parametrize(
    ("told_sizes", "linear", "key"), [(False, False, "sd1"), (False, True, "sd2"), (True, True, "sdxl")]
)
def test_a_checkpoints_unet_tells_its_family(told_sizes, linear, key):
    assert family_of_unet(told_sizes, linear).key == key


def test_the_table_is_there_without_pytorch(package_parent):
    code = "import sys, likeness_portraits.engine.bases.families; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=package_parent, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
