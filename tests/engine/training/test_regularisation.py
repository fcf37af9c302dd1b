"""Pictures of the class that are given: learned beside, in the place of drawn ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness_portraits.engine.config import Phase
from likeness_portraits.engine.data.concepts import Picture, digest, load_concept
from likeness_portraits.engine.data.quality import near_repeats
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.job_file import concepts_of
from likeness_portraits.engine.training.class_pictures import by_size
from likeness_portraits.engine.training.launch import train
from likeness_portraits.engine.training.methods import method_class
from likeness_portraits.tests.engine.tiny import tiny_job, write_person


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_person(tmp_path / "person")
    (tmp_path / "women").mkdir()
    for shade in range(3):
        Image.new("RGB", (48, 32), (80 * shade, 10, 10)).save(tmp_path / "women" / f"w{shade}.png")
    (tmp_path / "women" / "w1.txt").write_text("{} in red")
    return tmp_path


def job(folder: Path, method: str = "dreambooth-lora", **changes):
    concept = {"folder": str(folder / "person"), "regularisation": str(folder / "women")}
    return tiny_job(method, folder, concepts=[concept], **changes)


def test_given_pictures_of_the_class_are_learned_beside_and_none_is_drawn(base, folder, monkeypatch):
    plan = job(folder)
    concept = load_concept(plan.concepts[0])
    assert any(remark.endswith("3 pictures of 'woman' are learned beside <v0>") for remark in concept.remarks)
    method = method_class(plan.method)(plan, base, [concept])
    monkeypatch.setattr(method, "pictures", lambda *_: pytest.fail("a class picture was drawn"))
    try:
        method.prepare(lambda: None)
        phase: Phase = method.phases()[0]
        seen = {}
        for number in range(3):
            batch = method.batch(phase, number)
            for pixels, prompt, prior in zip(batch.pixels, batch.prompts, batch.prior.tolist()):
                if prior:
                    seen[round((float(pixels[0].mean()) + 1) * 127.5)] = prompt
        assert set(seen) == {0, 80, 160} and seen[80] == "woman in red"
        assert all("<v0>" not in prompt and "woman" in prompt for prompt in seen.values())
    finally:
        method.close()


def test_given_pictures_make_another_training_set_and_a_run_of_their_own(base, folder):
    plain = load_concept(folder / "person")
    beside = load_concept(job(folder).concepts[0])
    assert digest([plain]) != digest([beside])
    with_them = train(job(folder, name="beside"), base=base).read_bytes()
    assert with_them == train(job(folder, name="beside", overwrite=True), base=base).read_bytes()
    assert with_them != train(tiny_job("dreambooth-lora", folder, "drawn"), base=base).read_bytes()


def test_methods_that_learn_beside_nothing_refuse_them(base, folder):
    for method, changes, sentence in (
        ("textual-inversion", {}, "takes no pictures of the class to learn beside"),
        ("dreambooth-lora", {"settings": {"prior_weight": 0.0}}, "but prior_weight is 0"),
    ):
        plan = job(folder, method, **changes)
        with pytest.raises(LikenessError, match=sentence):
            method_class(method)(plan, base, [load_concept(plan.concepts[0])])
    with pytest.raises(LikenessError, match="--regularisation is given 2 times for 1 folders"):
        concepts_of(["person"], [], [], [], regularisation=["women", "men"])


def test_given_pictures_lie_in_the_nearest_sizes_and_no_size_stays_empty():
    wide, wider = (Picture(str(w), np.zeros((40, w, 3), np.uint8)) for w in (60, 80))
    places = by_size([wide, wider], [(32, 48), (48, 32)])
    assert [one.name for one in places[32, 48]] == ["60", "80"]
    assert [one.name for one in places[48, 32]] == ["60"]
    assert by_size([], [(32, 32)]) == {}


def test_a_near_repeat_is_named_before_the_first_step(base, folder):
    pixels = np.asarray(Image.open(folder / "person" / "images" / "0.png"))
    Image.fromarray(pixels[:, ::-1]).save(folder / "person" / "images" / "turned.png")
    assert near_repeats(load_concept(folder / "person").pictures) == [("turned", "0")]

    class Listener:
        notes: list[str] = []

        def on_step(self, progress, losses) -> None: ...

        def on_preview(self, progress, image) -> None: ...

        def on_note(self, text: str) -> None:
            self.notes.append(text)

        def should_stop(self) -> bool:
            return True

    train(tiny_job("textual-inversion", folder), Listener(), base)
    assert "<v0>: turned repeats 0; what is there twice is learned twice: drop the repeats" in Listener.notes
