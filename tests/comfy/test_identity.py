"""Identity adapters inside a running ComfyUI: the same as from the command line, and beside other nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from likeness_portraits.engine.artifact import Artifact
from likeness_portraits.engine.bases.base import load_base
from likeness_portraits.engine.config import BaseSpec
from likeness_portraits.engine.identity.attention import IdAttention
from likeness_portraits.engine.identity.encoder import IdEncoder
from likeness_portraits.engine.identity.files import adapter_tensors
from likeness_portraits.engine.miniature import world
from likeness_portraits.tests.comfy.graphs import ending, node
from likeness_portraits.tests.comfy.hosts import Server, numbers_of, psnr
from likeness_portraits.tests.comfy.test_staged import learning

pytestmark = pytest.mark.comfy

PROMPT = "a watercolor painting of a smiling woman, wearing a green shirt, in a forest"
SEED, STEPS, GUIDANCE = 7, 12, 5.0
SAMPLING = {"seed": SEED, "steps": STEPS, "cfg": GUIDANCE}


def random_adapter(path: Path) -> Path:
    """For the Miniature, of random weights that show."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        encoder = IdEncoder(dim=128, image_width=128)
        attention = IdAttention.beside(load_base(BaseSpec()).denoiser.cross_attention())
        for weight in attention.parameters():
            weight.data += torch.randn_like(weight) / 128**0.5
    artifact = Artifact(
        kind="id_adapter", method="masterweaver", base_family="miniature",
        tensors=adapter_tensors(encoder, attention), extra={"image_encoder": "miniature"},
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    return artifact.save(path)


@pytest.fixture(scope="module")
def adapter(server: Server) -> Path:
    return random_adapter(server.base / "models" / "likeness" / "ids.safetensors")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the first two held-out people, as LikenessMiniature gives them, and halves of a picture."""
    folder = tmp_path_factory.mktemp("people")
    for person in (0, 1):
        for number, portrait in enumerate(world.example_pictures(world.REPORTING_SEEDS[person], 2)):
            Image.fromarray(portrait.pixels).save(folder / f"{person}-{number}.png")
    half = np.zeros((128, 128, 3), np.uint8)
    half[:, :64] = 255
    Image.fromarray(half).save(folder / "left.png")
    Image.fromarray(255 - half).save(folder / "right.png")
    return folder


def reading(person: int) -> dict[str, Any]:
    """Nodes that look at two pictures of a person."""
    return {
        f"person {person}": node("LikenessMiniature", person=person, pictures=2),
        f"identity {person}": node(
            "LikenessEncodeIdentity", images=[f"person {person}", 3], adapter=["adapter", 0],
        ),
    }  # fmt: skip


def drawing(**sampling: Any) -> dict[str, Any]:
    """Nodes that draw the first person as the command line would."""
    return {
        "base": node("LikenessMiniature", person=0, pictures=2),
        "adapter": node("LikenessLoad", name="ids.safetensors"),
        **reading(0),
        "apply": node("LikenessApplyIdentity", model=["base", 0], identity=["identity 0", 0], weight=0.9),
        "prompt": node("CLIPTextEncode", clip=["base", 1], text=PROMPT),
        "nothing": node("CLIPTextEncode", clip=["base", 1], text=""),
        **ending(["apply", 0], ["prompt", 0], ["nothing", 0], **{**SAMPLING, **sampling}),
    }  # fmt: skip


def drawn(server: Server, graph: dict[str, Any]) -> np.ndarray:
    return server.picture(server.run(graph)["show"]["images"][0])


def without(server: Server, graph: dict[str, Any]) -> np.ndarray:
    """The same graph with nobody applied."""
    plain = {name: dict(part, inputs=dict(part["inputs"])) for name, part in graph.items()}
    for part in plain.values():
        if part["class_type"] == "LikenessApplyIdentity":
            part["inputs"]["weight"] = 0.0
    return drawn(server, plain)


@pytest.mark.parametrize(
    ("sampling", "extra"),
    [
        ({}, ()),
        pytest.param(
            {"sampler_name": "dpmpp_2m", "scheduler": "karras"},
            ("--sampler", "dpmpp_2m", "--schedule", "karras"), marks=pytest.mark.slow,
        ),
        ({"cfg": 1.0}, ("--guidance", "1")),
    ],
    ids=["euler", "dpmpp_2m", "without guidance"],
)  # fmt: skip
def test_the_command_line_draws_the_same_person(
    server: Server,
    adapter: Path,
    people: Path,
    likeness: Callable,
    tmp_path: Path,
    sampling: dict,
    extra: tuple,
):
    out, graph = tmp_path / "drawn.png", drawing(**sampling)
    ran = likeness(
        "generate", PROMPT, "--identity", f"{people / '0-0.png'},{people / '0-1.png'}:0.9",
        "--adapter", adapter, "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE, "--out", out, *extra,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours, theirs = np.asarray(Image.open(out).convert("RGB")), drawn(server, graph)
    nobody = psnr(theirs, without(server, graph))
    assert psnr(ours, theirs) >= max(40, nobody + 6)  # nearer than the picture of nobody by far


def test_two_people_a_staged_prompt_and_a_lora_in_one_graph_are_as_from_the_command_line(
    server: Server, adapter: Path, people: Path, likeness: Callable, tmp_path: Path
):
    server.run(learning())
    lora = random_lora(server.base / "models" / "likeness" / "lora.safetensors")
    graph = {
        **drawing(), **reading(1),
        "staged": node("LikenessLoad", name="staged.safetensors"),
        "lora": node("LikenessLoad", name="lora.safetensors"),
        "with lora": node(
            "LikenessApply", model=["base", 0], clip=["base", 1], likeness=["lora", 0], strength_model=0.5,
            strength_clip=0.5,
        ),
        "prompt": node(
            "LikenessStagedPrompt", model=["with lora", 0], clip=["with lora", 1], likeness=["staged", 0],
            text="a photo of <v0> in a city",
        ),
        "left": node("LoadImageMask", image="left.png", channel="red"),
        "right": node("LoadImageMask", image="right.png", channel="red"),
        "first": node(
            "LikenessApplyIdentity", model=["prompt", 0], identity=["identity 0", 0], weight=0.9,
            mask=["left", 0], start=0.1,
        ),
        "apply": node(
            "LikenessApplyIdentity", model=["first", 0], identity=["identity 1", 0], weight=1.0,
            mask=["right", 0], start=0.1,
        ),
    }  # fmt: skip
    graph["sample"]["inputs"]["positive"] = ["prompt", 1]
    graph["nothing"]["inputs"]["clip"] = ["with lora", 1]
    for name in ("left.png", "right.png"):
        Image.open(people / name).save(server.base / "input" / name)
    out = tmp_path / "drawn.png"
    ran = likeness(
        "generate", "a photo of <v0> in a city", "--concept", lora.with_name("staged.safetensors"),
        "--concept", f"{lora}:0.5", "--adapter", adapter, "--identity-start", 0.1,
        "--identity", f"{people / '0-0.png'},{people / '0-1.png'}:0.9",
        "--identity", f"{people / '1-0.png'},{people / '1-1.png'}",
        "--identity-region", people / "left.png", "--identity-region", people / "right.png",
        "--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE, "--out", out,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ours, theirs = np.asarray(Image.open(out).convert("RGB")), drawn(server, graph)
    assert psnr(ours, theirs) >= max(40, psnr(theirs, without(server, graph)) + 6)


def random_lora(path: Path) -> Path:
    """A LoRA of the Miniature's, on one layer."""
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    generator = torch.Generator().manual_seed(4)
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, 128, generator=generator),
        f"{name}.lora_up.weight": 0.1 * torch.randn(128, 2, generator=generator),
        f"{name}.alpha": torch.tensor(2.0),
    }
    return Artifact(kind="lora", method="test", tensors=tensors, base_family="miniature").save(path)


def test_the_node_shows_what_the_adapter_saw(server: Server, adapter: Path):
    graph = {"adapter": node("LikenessLoad", name="ids.safetensors"), **reading(0)}
    graph["identity 0"]["inputs"]["keep"] = "face"  # what is cached shows nothing
    graph["keep"] = node("PreviewImage", images=["identity 0", 1])
    shown = server.run(graph)["identity 0"]["images"]
    assert len(shown) == 2
    corners = server.picture(shown[0])[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"person 0": {"pictures": 4}}, "4 reference pictures are given, but the adapter has places for 3"),
        ({"identity 0": {"images": ["wall", 0]}}, "no picture of the Miniature's world"),
        ({"identity 0": {"masks": ["empty", 0]}}, "there are 2 pictures but 1 masks"),
        ({"apply": {"start": 0.9, "end": 0.1}}, "cannot last from 0.9 to 0.1"),
        ({"apply": {"mask": ["empty", 0]}}, "region marks nothing"),
        ({"apply": {"layers": "roof=1"}}, "the model has no layer 'roof'"),
        ({"adapter": {"name": "foreign.safetensors"}}, "trained for sd1, but the model is miniature"),
        ({"adapter": {"name": "lora.safetensors"}}, "is no identity adapter"),
    ],
)
def test_mistakes_are_told_in_the_node(server: Server, adapter: Path, changes: dict, message: str):
    random_lora(server.base / "models" / "likeness" / "lora.safetensors")
    own = Artifact.load(adapter)
    Artifact(
        kind="id_adapter", method="masterweaver", base_family="sd1", tensors=own.tensors, extra=own.extra
    ).save(adapter.with_name("foreign.safetensors"))
    graph = {
        **drawing(),
        "wall": node("EmptyImage", width=128, height=128, batch_size=1, color=8421504),
        "empty": node("SolidMask", value=0.0, width=128, height=128),
    }
    for name, inputs in changes.items():
        graph[name]["inputs"] |= inputs
    entry = server.wait(server.queue(graph))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert message in failures[0]["exception_message"]


def training(**changes: Any) -> dict[str, Any]:
    """Nodes that train an adapter for a moment on rendered people, and draw somebody with it at once."""
    graph = drawing()
    graph["adapter"] = node(
        "LikenessTrainMasterWeaver", **{
            "model": ["base", 0], "clip": ["base", 1], "vae": ["base", 2], "preset": "automatic", "steps": 2,
            "folder": "", "people": 4, "stage": "both", "learning_rate": 0.0, "batch_size": 2, "seed": 3,
            "preview_every": 0, "more_settings": "background_every: 2", **changes,
        },
    )  # fmt: skip
    graph["save"] = node("LikenessSave", likeness=["adapter", 0], name="woven")
    graph["apply"]["inputs"]["weight"] = 1.0
    return graph


def newest(server: Server) -> Artifact:
    """The adapter that was saved last."""
    files = (server.base / "models" / "likeness").glob("woven*.safetensors")
    return Artifact.load(max(files, key=lambda path: path.stat().st_mtime))


def test_an_adapter_trained_in_the_graph_draws_somebody_at_once_and_is_the_command_lines(
    server: Server, likeness: Callable, tmp_path: Path
):
    graph = training()
    shown = drawn(server, graph)
    learned = newest(server)
    assert (learned.kind, learned.steps) == ("id_adapter", 2)
    assert learned.settings["identity_steps"] == learned.settings["editing_steps"] == 1
    assert psnr(shown, without(server, graph)) < 60  # somebody is there
    out = tmp_path / "by-command.safetensors"
    ran = likeness("shards", tmp_path / "shards", "--miniature", 4, "--first", 10_000, "--twins", 2)
    assert ran.returncode == 0, ran.stderr
    ran = likeness(
        "train", "masterweaver", "--shards", tmp_path / "shards", "--identity-steps", 1, "--editing-steps", 1,
        "--batch-size", 2, "--background-every", 2, "--seed", 3, "--device", "cpu", "-o", out,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    own = Artifact.load(out)
    apart = [(own.tensors[name] - tensor).abs().max().item() for name, tensor in learned.tensors.items()]
    assert max(apart) <= 1e-4


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("shards: 'pipe:touch CANARY; true /'", "shards"),
        ("validation: 'pipe:touch CANARY; true /'", "validation"),
        ("adapter: /etc/passwd", "adapter"),
        ("image_encoder: https://example.invalid/tower", "image_encoder"),
    ],
)
def test_more_settings_of_a_workflow_name_no_files_and_run_nothing(server: Server, line: str, name: str):
    entry = server.wait(server.queue(training(more_settings=line, preview_every=1)))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert f"'more settings' says {name}, which names files" in failures[0]["exception_message"]
    assert not list(server.base.glob("**/CANARY"))  # it would have been made where the server works


@pytest.mark.parametrize("line", ["identity: /etc/passwd", "detector: ../../etc"])
def test_nor_do_those_of_a_person_in_a_style(server: Server, line: str):
    graph = learning()
    told = graph["learn"]["inputs"]
    shared = {
        key: told[key] for key in ("model", "clip", "vae", "concept", "preset", "seed", "preview_prompt")
    }
    graph["style"] = node(
        "LikenessConcept", images=["base", 3], class_word="painting", token="<s0>", role="style"
    )
    graph["learn"] = node(
        "LikenessTrainMagiCapture", **shared, style=["style", 0], steps=2, identity="none",
        identity_weight=0.0, composed="as the preset says", unet_learning_rate=0.0, rank=0, preview_every=0,
        more_settings=line,
    )  # fmt: skip
    assert f"'more settings' says {line.split(':')[0]}, which names files" in failure(server, graph)


def test_nor_do_those_of_a_person_and_no_folder_is_on_another_machine(server: Server):
    graph = learning()
    graph["learn"]["inputs"]["more_settings"] = "image_encoder: /etc"
    assert "'more settings' says image_encoder, which names files" in failure(server, graph)
    for name in ("\\\\host\\share", "//host/share"):
        assert "lies on another machine" in failure(server, training(folder=name))
        graph = learning()
        graph["concept"] = node(
            "LikenessConceptFolder", folder=name, class_word="", role="as concept.json says", token="<v0>"
        )
        with pytest.raises(AssertionError, match="lies on another machine"):  # before anything runs
            server.queue(graph)


def failure(server: Server, graph: dict[str, Any]) -> str:
    entry = server.wait(server.queue(graph))
    (said,) = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    return said["exception_message"]


def test_one_stage_goes_on_from_an_adapter_with_a_folder_of_pictures(server: Server, people: Path):
    place = server.base / "input" / "many"
    place.mkdir(exist_ok=True)
    for path in people.glob("?-?.png"):
        Image.open(path).save(place / path.name)
        (place / path.name).with_suffix(".txt").write_text("a photo of a person")
    (place / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (128, 128)).save(place / "nobody.png")
    graph = training(folder="many", stage="editing", steps=1, adapter=["before", 0])
    graph["before"] = node("LikenessLoad", name="ids.safetensors")
    graph["show"] = node("PreviewImage", images=["adapter", 2])
    server.run(graph)
    learned = newest(server)
    assert learned.steps == 1 and learned.settings["identity_steps"] == 0
    told = server.log.read_text()
    assert "1 pictures of" in told and "show no face, 1 cannot be read" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "editing"}, "goes on from an adapter that knows identity; connect one"),
        ({"folder": "nowhere"}, "there is no folder"),
        ({"steps": 1}, "cannot be shared by two stages"),
    ],
)
def test_an_adapters_training_tells_what_it_needs(server: Server, changes: dict, message: str):
    entry = server.wait(server.queue(training(**changes)))
    failures = [content for kind, content in entry["status"]["messages"] if kind == "execution_error"]
    assert message in failures[0]["exception_message"]


# ------------------------------------------------------------------------------ without a server, in numbers


@pytest.fixture(scope="module")
def measured(
    checkout: Path, python: Path, package_parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    adapter = random_adapter(tmp_path_factory.mktemp("numbers") / "ids.safetensors")
    return numbers_of("identity_numbers.py", python, checkout, package_parent, adapter)


@pytest.mark.parametrize("what", ["guided", "unguided", "alone", "region"])
def test_comfyuis_unet_and_the_engines_show_the_same_person(measured: dict, what: str):
    assert measured["seen"] > 0.01 and measured[what] <= 1e-4


@pytest.mark.parametrize("what", ["unpatched model", "weight 0", "other noise levels"])
def test_where_nobody_is_shown_the_unet_is_the_stock_one(measured: dict, what: str):
    assert measured[what] <= 1e-5


def test_identities_add_up_and_leave_other_nodes_patches_where_they_are(measured: dict):
    assert measured["twice a half"] <= 1e-4 and measured["either order"] == 0
    assert measured["others stay"] > 0.01 and measured["beside others"] > 0.01


@pytest.mark.parametrize("what", ["area, mask of it", "area, mask beside it", "areas of two people"])
def test_a_mask_is_cut_as_the_area_is_that_a_prompt_is_given(measured: dict, what: str):
    assert measured["area, seen"] > 0.01 and measured["area and whole"] > 0.01
    assert measured[what] <= 1e-5


def test_comfyuis_clip_vision_sees_what_the_engines_image_tower_sees(measured: dict):
    assert measured["towers"] <= 5e-3  # ComfyUI keeps its weights in half precision
    assert measured["tower of a training"] <= 5e-3
    assert measured["changed tower"] <= 5e-3


def test_an_identity_costs_little_of_a_step(measured: dict):
    # measured 0.041 to 0.044 with one picture of them; in SD other layers weigh more
    assert measured["overhead"] <= 0.05
