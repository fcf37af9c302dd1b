"""Learning on top of a LoRA: what is learned belongs to the changed weights; the base comes back whole."""

from pathlib import Path

import pytest
import torch

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.host import merged_adapters
from likeness_portraits.engine.training.launch import train
from likeness_portraits.tests.engine.tiny import tiny_base, tiny_job, write_person


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The folder, a LoRA, and an embedding that knows nothing of it."""
    folder = tmp_path_factory.mktemp("host")
    write_person(folder / "person")
    lora = train(tiny_job("dreambooth-lora", folder, "lora"), base=tiny_base())
    plain = train(tiny_job("textual-inversion", folder, "plain"), base=tiny_base())
    return folder, lora, plain


def test_words_learned_on_a_lora_differ_from_words_learned_on_the_base(learned: tuple[Path, Path, Path]):
    folder, lora, plain = learned
    base = tiny_base()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    job = tiny_job("textual-inversion", folder, "hosted", on=[str(lora)])
    rows = Artifact.load(train(job, base=base)).rows("<v0>")["clip_l"]
    assert not torch.equal(rows, Artifact.load(plain).rows("<v0>")["clip_l"])
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_only_a_lora_of_the_same_family_can_be_learned_on(learned: tuple[Path, Path, Path], tmp_path: Path):
    folder, lora, plain = learned
    with (
        pytest.raises(LikenessError, match="embedding, not a LoRA"),
        merged_adapters(tiny_base(), [str(plain)]),
    ):
        pass
    other = tiny_base()
    other.family = "sd2"
    with pytest.raises(LikenessError, match="family sd1, not sd2"), merged_adapters(other, [str(lora)]):
        pass
