"""Concept files: exact round trips, other tools' formats, and hostile files refused in one sentence."""

import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from likeness_portraits.engine.artifact import (
    Artifact,
    Token,
    export_stock,
    import_file,
    merge,
    read_metadata,
)
from likeness_portraits.engine.artifact.inert_pickle import read_checkpoint, read_without_running
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.identity.adapter import import_released, is_released
from likeness_portraits.engine.staged.embedding import is_reference_mapper

TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
Q_PROJ = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def lora_tensors(width: int = 128, rank: int = 4, alpha: float = 8.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module in (TO_K, Q_PROJ):
        tensors[f"{module}.lora_down.weight"] = torch.randn(rank, width, generator=generator)
        tensors[f"{module}.lora_up.weight"] = torch.randn(64, rank, generator=generator)
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    return tensors


def person() -> Artifact:
    rows = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return Artifact(
        kind="lora",
        method="dreambooth-lora",
        tensors={**lora_tensors(), "token.v0.clip_l": rows},
        tokens=(Token(token="<v0>", class_word="woman", vectors=2),),
        base_family="miniature",
        base_fingerprint="abc",
        settings={"rank": 4, "templates": ["a photo of {}"]},
        seed=7,
        steps=150,
        digest="123",
        licence="pictures: private",
        extra={"stages": [0, 500]},
    )


def assert_equal_tensors(left, right) -> None:
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=0, atol=0)


def test_what_is_saved_is_loaded_exactly(tmp_path: Path):
    person().save(tmp_path / "anna.safetensors")
    loaded = Artifact.load(tmp_path / "anna.safetensors")
    assert_equal_tensors(loaded.tensors, person().tensors)
    for name in ("kind", "method", "tokens", "base_family", "base_fingerprint", "settings", "seed", "steps"):
        assert getattr(loaded, name) == getattr(person(), name)
    assert (loaded.digest, loaded.licence, loaded.extra) == ("123", "pictures: private", {"stages": [0, 500]})
    assert os.listdir(tmp_path) == ["anna.safetensors"]


def test_equal_artifacts_are_equal_files(tmp_path: Path):
    paths = [person().save(tmp_path / f"{number}.safetensors") for number in range(6)]
    assert len({path.read_bytes() for path in paths}) == 1  # safetensors' own order differs from map to map
    whole = load_file(paths[0])
    assert_equal_tensors(whole, person().tensors)
    with safe_open(paths[0], "pt") as file:
        assert file.metadata()["likeness.method"] == "dreambooth-lora"


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_others_may_read_a_concept_file(tmp_path: Path):
    (tmp_path / "plain").touch()
    path = person().save(tmp_path / "anna.safetensors")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_metadata_is_read_without_the_tensors(tmp_path: Path):
    person().save(tmp_path / "anna.safetensors")
    metadata = read_metadata(tmp_path / "anna.safetensors")
    assert metadata["method"] == "dreambooth-lora" and metadata["tokens"] == person().tokens
    assert metadata["written_by"].startswith("likeness-portraits ")
    assert metadata["parameters"] == sum(tensor.numel() for tensor in person().tensors.values())


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path):
    table = torch.randn(4, 128)
    tokens = (Token(token="<a>", vectors=2), Token(token="<b>", vectors=2))
    tensors = {"token.a.clip_l": table[:2], "token.b.clip_l": table[2:]}
    shared = Artifact(kind="embedding", method="x", tensors=tensors, tokens=tokens, base_family="miniature")
    shared.save(tmp_path / "two.safetensors")
    torch.testing.assert_close(Artifact.load(tmp_path / "two.safetensors").rows("<b>")["clip_l"], table[2:])


def test_stock_files_hold_kohya_names_with_alpha_and_plain_rows(tmp_path: Path):
    paths = export_stock(person(), tmp_path, "anna")
    assert [path.name for path in paths] == ["anna.safetensors", "v0.safetensors"]
    assert_equal_tensors(load_file(paths[0]), lora_tensors())
    assert_equal_tensors(load_file(paths[1]), {"clip_l": person().tensors["token.v0.clip_l"]})
    with safe_open(paths[0], "pt") as file:
        assert (file.metadata()["ss_network_dim"], file.metadata()["ss_network_alpha"]) == ("4", "8.0")


def test_stock_files_come_back_as_the_same_concept(tmp_path: Path):
    lora, embedding = export_stock(person(), tmp_path, "anna")
    back = merge([import_file(lora), import_file(embedding, class_word="woman")])
    assert (back.kind, back.base_family, back.tokens) == ("lora", "miniature", person().tokens)
    assert_equal_tensors(back.tensors, person().tensors)


def test_our_own_file_is_imported_as_it_is(tmp_path: Path):
    person().save(tmp_path / "anna.safetensors")
    assert import_file(tmp_path / "anna.safetensors").settings == person().settings


def test_diffusers_names_become_kohya_names(tmp_path: Path):
    down, up = torch.randn(4, 768), torch.randn(320, 4)
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up,
         "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": down.clone(),
         "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": up.clone()},
        tmp_path / "d.safetensors",
    )  # fmt: skip
    lora = import_file(tmp_path / "d.safetensors").lora()
    torch.testing.assert_close(lora[f"{TO_K}.lora_down.weight"], down)
    torch.testing.assert_close(lora[f"{Q_PROJ}.lora_up.weight"], up)
    assert float(lora[f"{TO_K}.alpha"]) == 4  # diffusers applies such a file at scale 1


def test_an_a1111_embedding_is_read_without_running_its_pickle(tmp_path: Path):
    rows = torch.randn(3, 768)
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "me"}, tmp_path / "my face.pt"
    )
    imported = import_file(tmp_path / "my face.pt", class_word="man")
    assert imported.tokens == (Token(token="<my_face>", class_word="man", vectors=3),)
    torch.testing.assert_close(imported.rows("<my_face>")["clip_l"], rows)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"string_to_param": Evil()}))
    torch.save({"string_to_param": Evil()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(LikenessError, match=rf"{name} holds more than tensors"):
            import_file(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


HOSTILE = {
    "empty": b"",
    "text": b"these are not the weights you are looking for",
    "pickle": pickle.dumps({"a": 1}),
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "header beyond the end": struct.pack("<Q", 4000) + b"{}",
    "no json": safetensors_bytes(b"\xff\xfe{{{{"),
    "deep json": safetensors_bytes(b"[" * 200_000),
    "a list": safetensors_bytes([1, 2]),
    "shapeless": safetensors_bytes({"x": {"dtype": "F32"}}),
    "odd metadata": safetensors_bytes({"__metadata__": 5}),
    "endless": safetensors_bytes(b'{"x": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 0]}}'),
    "less than nothing": safetensors_bytes({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}),
    "half a side": safetensors_bytes({"x": {"dtype": "F32", "shape": [0.5], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_no_safetensors_are_refused(tmp_path: Path, name: str):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(HOSTILE[name])
    for read in (Artifact.load, read_metadata, import_file):
        with pytest.raises(
            LikenessError, match=r"bad\.safetensors is not a .safetensors file, or is damaged; "
        ) as told:
            read(path)
        assert "\n" not in str(told.value)


def test_missing_files_and_folders_are_named(tmp_path: Path):
    for read in (Artifact.load, read_metadata, import_file):
        with pytest.raises(LikenessError, match="gone.safetensors does not exist"):
            read(tmp_path / "gone.safetensors")
        with pytest.raises(LikenessError, match="is a folder; give a file"):
            read(tmp_path)


def test_a_truncated_concept_file_is_refused(tmp_path: Path):
    path = person().save(tmp_path / "anna.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LikenessError, match="is damaged or cut short"):
        Artifact.load(path)


def test_a_strangers_safetensors_is_sent_to_import(tmp_path: Path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(
        LikenessError, match="is not one of our concept files; bring it in with `likeness import"
    ):
        Artifact.load(tmp_path / "x.safetensors")


def changed_metadata(path: Path, **changes: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(
        load_file(path), path, {**metadata, **{f"likeness.{key}": value for key, value in changes.items()}}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "99"}, "format 99, written by a newer version of Likeness; update"),
        ({"format_version": "-1"}, "has a format without a number"),
        ({"format_version": "²"}, "has a format without a number"),
        ({"format_version": "1\n" * 900}, "has a format without a number; get it again or choose another$"),
        (
            {"kind": "virus"},
            r"anna.safetensors describes itself wrongly \(unknown kind of concept file 'virus'",
        ),
        ({"base_family": "sdlx"}, "did you mean 'sdxl'"),
        ({"tokens": "{"}, "describes itself wrongly"),
        ({"tokens": '[{"token": "../../etc"}]'}, "cannot be a placeholder"),
        ({"tokens": '[{"tokens": "<v0>"}]'}, "did you mean 'token'"),
        ({"tokens": '[{"token": "<v0>", "vectors": 9}]'}, "rows token.v0.clip_l do not fit"),
        ({"tokens": '[{"token": "<v0>", "vectors": 2}, {"token": "<v0>"}]'}, "defines a placeholder twice"),
        ({"tokens": "[]"}, "rows token.v0.clip_l do not fit"),
        ({"settings": "[]"}, "describes itself wrongly"),
        ({"seed": "many"}, "describes itself wrongly"),
        ({"seed": "1" * 5000}, "describes itself wrongly"),
        ({"settings": '{"a": ' * 5000}, "describes itself wrongly .*'settings' is not valid JSON"),
        ({"extra": '{"a": ' * 80 + "1" + "}" * 80}, "'extra' is nested more than 64 levels deep"),
        ({"tokens": "5"}, "describes itself wrongly"),
        ({"tokens": "[5]"}, "describes itself wrongly"),
        ({"tokens": r'[{"token": "<v0>", "class_word": "\ud800"}]'}, "holds a character that is none"),
        ({"tokens": '[{"token": "<v0>", "vectors": 1000000000}]'}, "has 1000000000 vectors; it must be 0 to"),
        ({"tokens": '[{"token": "<v0>", "vectors": -1}]'}, "has -1 vectors; it must be 0 to"),
    ],
)
def test_files_that_describe_themselves_wrongly_are_refused(tmp_path: Path, changes, message: str):
    path = person().save(tmp_path / "anna.safetensors")
    changed_metadata(path, **changes)
    with pytest.raises(LikenessError, match=message):
        Artifact.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{TO_K}.lora_up.weight": torch.zeros(64, 3)}, "the shapes in the LoRA of .* disagree"),
        ({f"{TO_K}.alpha": torch.zeros(2)}, "the LoRA of .* is incomplete"),
        ({f"{TO_K}.lora_down.weight": torch.full((4, 128), float("nan"))}, "not finite numbers"),
        ({f"{TO_K}.alpha": torch.tensor(8)}, "not finite numbers"),
        (
            {f"{TO_K}.lora_down.weight": torch.zeros(4, 128).to(torch.float8_e4m3fn)},
            "stored as float8_e4m3fn",
        ),
        ({"token.v0.clip_g": torch.zeros(2, 128)}, "no text encoder of a miniature base"),
        ({"surprise": torch.zeros(1)}, "holds 'surprise', which no lora has"),
    ],
)
def test_tensors_that_do_not_fit_are_neither_saved_nor_loaded(tmp_path: Path, change, message: str):
    broken = replace(person(), tensors={**person().tensors, **change})
    with pytest.raises(LikenessError, match=message):
        broken.save(tmp_path / "broken.safetensors")
    assert os.listdir(tmp_path) == []
    path = person().save(tmp_path / "anna.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(broken.tensors, path, metadata)
    with pytest.raises(LikenessError, match=message):
        Artifact.load(path)


def diffusers_lora(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {"lora_A": torch.zeros(4, 768), "lora_B": torch.zeros(320, 4), **changes}
    return {f"{module}.{name}.weight": tensor for name, tensor in tensors.items()}


STRANGE = {
    "a diffusers LoRA of no dimension": diffusers_lora(lora_A=torch.tensor(1.0)),
    "a diffusers LoRA of one dimension": diffusers_lora(lora_A=torch.zeros(4)),
    "a diffusers LoRA with an up of no dimension": diffusers_lora(lora_B=torch.tensor(1.0)),
    "a diffusers LoRA of three dimensions": diffusers_lora(lora_A=torch.zeros(4, 768, 1)),
    "a kohya LoRA of no dimension": {**lora_tensors(768), f"{TO_K}.lora_down.weight": torch.tensor(1.0)},
    "a kohya LoRA of one dimension": {**lora_tensors(768), f"{Q_PROJ}.lora_down.weight": torch.zeros(4)},
    "an embedding of no dimension": {"emb_params": torch.tensor(1.0)},
    "clip_l of no dimension": {"clip_l": torch.tensor(1.0)},
    "clip_l of no dimension beside clip_g": {"clip_l": torch.tensor(1.0), "clip_g": torch.zeros(2, 1280)},
    "clip_g of no dimension": {"clip_l": torch.zeros(2, 768), "clip_g": torch.tensor(1.0)},
    "clip_l of one dimension beside clip_g": {"clip_l": torch.zeros(768), "clip_g": torch.zeros(2, 1280)},
    "an embedding of no vector": {"emb_params": torch.zeros(0, 768)},
    "an embedding of three dimensions": {"emb_params": torch.zeros(1, 2, 768)},
    "a numbered LoRA of no dimension": {"unet:0:up": torch.tensor(1.0), "unet:0:down": torch.tensor(1.0)},
}


@pytest.mark.parametrize("name", STRANGE)
def test_tensors_of_strange_shapes_are_refused_at_import(tmp_path: Path, name: str):
    save_file(STRANGE[name], tmp_path / "odd.safetensors")
    with pytest.raises(LikenessError, match=r"odd\.safetensors") as told:
        import_file(tmp_path / "odd.safetensors")
    assert "\n" not in str(told.value)


def test_of_a_name_without_an_end_the_beginning_is_told(tmp_path: Path):
    save_file({"x" * 5000: torch.zeros(2, 2)}, tmp_path / "odd.safetensors", person().metadata())
    with pytest.raises(LikenessError, match=r"odd\.safetensors") as told:
        Artifact.load(tmp_path / "odd.safetensors")
    assert "'xxx" in str(told.value) and len(str(told.value)) < 600


def torch_zip(path: Path, program: bytes, packing: int = zipfile.ZIP_STORED) -> None:
    """A file such as torch.save writes, around any pickle program."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


PROGRAMS = {
    "SETITEM on an empty stack": b"\x80\x02s.",
    "an empty program": b"\x80\x02.",
    "APPENDS without a mark": b"\x80\x02]e.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "BUILD on an empty stack": b"\x80\x02b.",
    "REDUCE of numbers": b"\x80\x02K\x01K\x02R.",
    "TUPLE2 of one": b"\x80\x02K\x01\x86.",
    "cut short": b"\x80\x02}q",
    "nothing at all": b"",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_damaged_pickles_are_refused_in_one_sentence(tmp_path: Path, name: str):
    torch_zip(tmp_path / "odd.pt", PROGRAMS[name])
    (tmp_path / "old.pt").write_bytes(PROGRAMS[name])
    for file in ("odd.pt", "old.pt"):
        for read in (import_file, import_released, is_released, is_reference_mapper, read_without_running):
            try:
                assert read(tmp_path / file) is False
            except LikenessError as told:
                assert file in str(told) and "\n" not in str(told)


def test_a_pickle_that_numbers_its_memo_far_up_takes_no_memory_for_it(tmp_path: Path):
    torch_zip(tmp_path / "odd.pt", b"\x80\x02}r\x00\x00\x00\x01.")  # at 2**24
    tracemalloc.start()
    try:
        assert read_without_running(tmp_path / "odd.pt") == {}
        assert tracemalloc.get_traced_memory()[1] < 2**24  # 2**28 where there is room for all below it
    finally:
        tracemalloc.stop()


def test_a_pickle_gives_no_function_other_defaults(tmp_path: Path):
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__)s\x86b."
    torch_zip(tmp_path / "odd.pt", program)
    before = torch._utils._rebuild_tensor_v2.__defaults__
    read_without_running(tmp_path / "odd.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before == (None,)


@pytest.mark.parametrize("read", [import_file, read_checkpoint, read_without_running])
def test_a_small_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path, read):
    torch.save({"emb_params": torch.ones(1).expand(2**34, 768)}, tmp_path / "one.pt")
    torch.save({f"t{n}": torch.ones(2**10).expand(2**10, 2**10) for n in range(99)}, tmp_path / "many.pt")
    torch_zip(tmp_path / "packed.pt", b"\x80\x02}." + bytes(2**27), zipfile.ZIP_DEFLATED)
    for name, said in (("one.pt", "far more"), ("many.pt", "far more"), ("packed.pt", "far too small")):
        with pytest.raises(LikenessError, match=rf"{name} .*{said}"):
            read(tmp_path / name)


def test_a_damaged_zip_is_read_or_refused_in_one_sentence(tmp_path: Path):
    torch.save({"emb": torch.zeros(2, 768)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    end, central = whole.rindex(b"PK\x05\x06"), whole.index(b"PK\x01\x02")
    damaged = {
        "end record": whole[: end + 16] + b"\xff\xff\xff\x7f" + whole[end + 20 :],
        "central directory": whole[:central] + b"PK\x07\x07" + whole[central + 4 :],
        "name in no UTF-8": whole[: central + 8] + b"\x00\x08" + whole[central + 10 : central + 46]
        + b"\xff\xfe" + whole[central + 48 :],
        "extra field": whole[: central + 30] + b"\xff\x00" + whole[central + 32 :],
    }  # fmt: skip
    refused = []
    for name, content in damaged.items():
        path = tmp_path / "odd.pt"
        path.write_bytes(content)
        for read in (import_file, import_released, is_released, is_reference_mapper, read_checkpoint):
            try:
                read(path)
            except LikenessError as told:
                assert "odd.pt" in str(told) and "\n" not in str(told), name
                refused.append(name)
    assert set(refused) == set(damaged)  # by one reader at least: PyTorch's own forgives much


def test_a_tar_is_not_given_to_the_unpickler(tmp_path: Path, monkeypatch):
    with tarfile.open(tmp_path / "old.pt", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was"))
    with pytest.raises(LikenessError, match="old.pt holds more than tensors or is damaged"):
        import_file(tmp_path / "old.pt")


def test_a_lora_named_like_its_placeholder_is_not_overwritten_by_it(tmp_path: Path):
    with pytest.raises(LikenessError, match="would both be written to v0.safetensors"):
        export_stock(person(), tmp_path, "v0")
    assert os.listdir(tmp_path) == []


def test_what_no_other_tool_reads_is_not_exported(tmp_path: Path):
    staged = Artifact(kind="staged_embedding", method="x", tensors={"mapper": torch.zeros(1)})
    with pytest.raises(LikenessError, match="a staged_embedding has no form that other tools read"):
        export_stock(staged, tmp_path, "x")


def test_files_for_different_bases_are_not_merged(tmp_path: Path):
    with pytest.raises(LikenessError, match="for different bases"):
        merge([person(), replace(person(), base_family="sd1")])
