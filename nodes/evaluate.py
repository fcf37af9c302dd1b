"""Judging what was drawn: scores in plain words, and grids of prompts, strengths and seeds."""

from collections.abc import Sequence

from comfy_api.latest import io, ui

from ..engine.config import ConceptSpec
from ..engine.config.choices import AUTOMATIC
from .types import Concept, Likeness, face_packs, schema, side_inputs, side_of, single, told

_EXACT_SIZE, _SIZE = side_inputs(
    "size", "size",
    "Pixels a side. automatic takes the model's own: 128 for the Miniature, 512 for SD 1.x, 1024 for SDXL "
    "and FLUX.2. Lower it for a quick look.",
)  # fmt: skip


def _judge() -> io.Input:
    """Who says how alike the faces are."""
    return io.Combo.Input(
        "faces", options=[AUTOMATIC, "miniature", *face_packs()], display_name="face model",
        default=AUTOMATIC,
        tooltip="Who recognises faces. automatic takes what is in models/insightface, and miniature for the "
        "Miniature's own cartoons, the only thing it knows. auraface may be used for anything, the others "
        "for non-commercial research.",
    )  # fmt: skip


def _axes() -> list[io.Input]:
    """What the grid goes over: its rows and columns."""
    return [
        io.String.Input(
            "prompts", display_name="prompts", multiline=True,
            default="a photo of <v0>\na watercolor painting of <v0>",
            tooltip="One prompt per line, with the placeholder in each. Vary place, clothes and "
            "style: only varied prompts tell likeness from copying.",
        ),
        io.String.Input(
            "strengths", display_name="strengths", default="0.6, 0.8, 1",
            tooltip="Strengths of the likeness, with commas between. Read in the frontier which "
            "keeps the person without losing the prompt.",
        ),
        io.Int.Input(
            "seed", display_name="first seed", default=0, min=0, max=2**53 - 1,
            control_after_generate=False,
            tooltip="Seed of the first column. Change it for other pictures.",
        ),
        io.Int.Input(
            "seeds", display_name="how many seeds", default=2, min=1, max=16,
            tooltip="Columns of the grid. More make the scores more certain.",
        ),
    ]  # fmt: skip


def _manner() -> list[io.Input]:
    """How each of its pictures is drawn."""
    return [
        io.String.Input(
            "negative", display_name="negative prompt", default="", multiline=True, optional=True,
            tooltip="What no picture should show.",
        ),
        io.Int.Input(
            "steps", display_name="steps", default=25, min=1, max=200, optional=True,
            tooltip="Sampling steps of each picture. Lower it for a quick look.",
        ),
        io.Float.Input(
            "cfg", display_name="cfg", default=5.0, min=0.0, max=30.0, step=0.1, optional=True,
            tooltip="How strictly prompts are followed. Take what you will draw with later.",
        ),
        _EXACT_SIZE,
    ]  # fmt: skip


def _others() -> list[io.Input]:
    """Further likenesses of the person, to be compared."""
    return [
        Likeness.Input(
            "likeness_2", display_name="second likeness", optional=True,
            tooltip="What another method or run learned of the same person under the same placeholder. "
            "Connect it to compare: it gets rows and points of its own.",
        ),
        Likeness.Input(
            "likeness_3", display_name="third likeness", optional=True,
            tooltip="One more, likewise. Connect it to compare three.",
        ),
    ]  # fmt: skip


def _part() -> list[io.Input]:
    """A part that was asked for, and where it is in the pictures."""
    return [
        Concept.Input(
            "component", display_name="component", optional=True,
            tooltip="A part that was asked for, such as somebody's hair: its own pictures with masks, from "
            "Training Subject. Connect it to see how like it the pictures show it.",
        ),
        io.Mask.Input(
            "component_masks", display_name="component masks", optional=True,
            tooltip="White where that part is in the measured pictures, one mask per picture, from Face "
            "Parts Mask or Mask by Text. Connect it together with component.",
        ),
    ]  # fmt: skip


class LikenessMeasure(io.ComfyNode):
    """Scores of pictures against the person's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessMeasure",
            display_name="Face Similarity Score",
            is_input_list=True,  # a list of pictures is judged as a whole, as a batch is
            description="Says in numbers and plain words how much pictures look like the person, and whether "
            "they show what the prompt asked for.",
            inputs=[
                io.Image.Input("images", display_name="images", tooltip="What was drawn, one or many."),
                Concept.Input(
                    "concept",
                    tooltip="The person's own pictures, from Training Subject. Pictures that were not "
                    "learned from judge more honestly.",
                ),
                _judge(),
                io.String.Input(
                    "prompt", display_name="prompt", default="", multiline=True,
                    tooltip="What the pictures should show: one prompt for all, or one per line and picture. "
                    "Leave it empty to judge the person alone.",
                ),
                io.Image.Input(
                    "strangers", display_name="strangers", optional=True,
                    tooltip="Pictures of other people. Connect some to see what chance scores; the Miniature "
                    "has its own.",
                ),
                io.Image.Input(
                    "style", display_name="style pictures", optional=True,
                    tooltip="Pictures of a style, by anybody and of anything. Connect some where a style was "
                    "asked for, to see how near it is.",
                ),
                *_part(),
            ],
            outputs=[
                io.Float.Output(
                    display_name="identity",
                    tooltip="Mean cosine to the person's pictures, -1 to 1, over pictures with a face.",
                ),
                io.Float.Output(
                    display_name="prompt score",
                    tooltip="Share of what was asked for on the Miniature, CLIP's cosine elsewhere; 0 where "
                    "nobody judged.",
                ),
                io.String.Output(
                    display_name="report", tooltip="All scores in plain words, picture by picture first."
                ),
                io.Float.Output(
                    display_name="median identity",
                    tooltip="As identity, but one picture of somebody else moves it less.",
                ),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images: list, concept: list[ConceptSpec], faces: list[str], prompt: list[str],
        strangers: list | None = None, style: list | None = None,
        component: Sequence[ConceptSpec | None] = (None,), component_masks: list | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.pictures import pictures_of
        from ..engine.evaluation.measure import report

        prompts = [line.strip() for text in prompt for line in text.splitlines() if line.strip()]
        pictures = pictures_of(images)
        prompts = prompts * len(pictures) if len(prompts) == 1 else prompts
        others, styled = ([] if some is None else pictures_of(some) for some in (strangers, style))
        part = _component(single(component, "component"), component_masks)
        subject, judge = single(concept, "concept"), single(faces, "face model")
        measures = _measured(pictures, subject, judge, prompts, others, styled, *part)
        words = report(measures)
        scores = measures.mean_identity, measures.mean_text, words, measures.median_identity
        return told(cls, *scores, text=words)


class LikenessGrid(io.ComfyNode):
    """Prompt by strength by seed, with scores under every picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessGrid",
            display_name="XY Grid with Similarity",
            description="Draws a likeness, or several to compare, in several prompts, strengths and seeds, "
            "scores every picture, and saves a report with the frontier of identity and prompt to the output "
            "folder.",
            inputs=[
                io.Model.Input("model", tooltip="The model the likeness was learned on."),
                io.Clip.Input("clip", tooltip="That model's CLIP."),
                io.Vae.Input("vae", tooltip="That model's VAE."),
                Concept.Input(
                    "concept",
                    tooltip="The person's own pictures, to compare with. Pictures that were not learned from "
                    "judge more honestly.",
                ),
                *_axes(),
                _judge(),
                io.String.Input(
                    "name", display_name="name", default="likeness-grid",
                    tooltip="Name of the report in ComfyUI's output folder. Change it to keep an earlier "
                    "one.",
                ),
                Likeness.Input(
                    "likeness", optional=True,
                    tooltip="What was learned. Leave it unconnected to judge MODEL and CLIP as they come.",
                ),
                *_manner(),
                *_others(),
                _SIZE,
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="All pictures with their scores."),
                io.Image.Output(
                    display_name="images", tooltip="By prompt, then likeness, then strength, then seed."
                ),
                io.String.Output(
                    display_name="report", tooltip="The scores in plain words and the report's path."
                ),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, concept: ConceptSpec, prompts: str, strengths: str, seed: int, seeds: int,
        faces: str, name: str, likeness=None, negative: str = "", steps: int = 25, cfg: float = 5.0,
        size: int = 0, likeness_2=None, likeness_3=None, picture_size: str = AUTOMATIC,
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.artifact import grid_card
        from ..engine.comfy_bridge import grid as drawing
        from ..engine.comfy_bridge.pictures import image_of
        from ..engine.comfy_bridge.weights import own_side
        from ..engine.data.at_hand import read_at_hand
        from ..engine.evaluation import grid as judged
        from ..engine.evaluation.measure import likeness_in_words

        lines, levels = judged.lines_of(prompts), judged.parse_numbers(strengths)
        learned = [one for one in (likeness, likeness_2, likeness_3) if one is not None]
        names = judged.names_of(
            [one.method for one in learned], [[token.token for token in one.tokens] for one in learned], lines
        )
        variants = max(1, len(learned)) * len(levels)
        judged.check_size(len(lines), variants, seeds)
        target, columns = drawing.report_file(name), range(seed, seed + seeds)
        side = side_of(size, picture_size) or own_side(model)
        how = drawing.GridDrawing(
            steps=steps, cfg=cfg, sampler="euler", scheduler="simple", width=side, height=side,
            negative=negative,
        )  # fmt: skip
        kind = f"a {read_at_hand(concept).class_word}"
        subjects = [next((token.token for token in one.tokens), kind) for one in learned] or [kind]
        pictures = drawing.draw_grid(
            (model, clip, vae), learned or [None], lines, columns, levels, how, subjects
        )
        spoken = [line for line in lines for _ in range(variants * seeds)]
        measures = _measured(pictures, concept, faces, spoken)
        grid = judged.Grid(
            prompts=lines, strengths=levels, seeds=columns, pictures=pictures, measures=measures,
            likenesses=names or [""], cards=[grid_card(one) for one in learned],
        )  # fmt: skip
        written = judged.write_grid_report(target, grid, name)
        sheet = image_of([judged.sheet(grid)])
        report = f"{likeness_in_words(measures)}\nThe report is {written}."
        shown = ui.PreviewImage(sheet, cls=cls).as_dict()
        return told(cls, sheet, image_of(pictures), report, text=report, **shown)


def _component(component: ConceptSpec | None, masks):
    """A component's pictures and where it is in those to be measured, or neither."""
    from ..engine.comfy_bridge.pictures import masks_of_tensor
    from ..engine.data.at_hand import read_at_hand
    from ..engine.errors import LikenessError

    if component is None and masks is None:
        return (), ()
    if component is None or masks is None:
        missing = "component" if component is None else "component masks"
        raise LikenessError(f"{missing} is not connected; connect component and component masks, or neither")
    return read_at_hand(component).pictures, masks_of_tensor(masks)


def _measured(
    pictures, concept: ConceptSpec, faces: str, prompts: list[str], strangers=(), style=(), component=(),
    component_masks=(),
):  # fmt: skip
    """Measures with whatever judges are on this machine: CLIP and DINOv2 where their files are."""
    from ..engine.comfy_bridge.folders import packs_folder
    from ..engine.comfy_bridge.grid import helpers_folder
    from ..engine.comfy_bridge.pictures import face_model_for
    from ..engine.data.at_hand import read_at_hand
    from ..engine.evaluation.backends import judges_there, load_face_judge
    from ..engine.evaluation.measure import measure

    subject = read_at_hand(concept)
    looked_by = face_model_for([picture.pixels for picture in subject.pictures], faces)
    judge = load_face_judge(looked_by, packs_folder())
    text, looks = judges_there(judge, helpers_folder())
    kind = f"a {subject.class_word}"
    spoken = [prompt.replace("{}", kind).replace(subject.token, kind) for prompt in prompts]
    return measure(
        pictures, [picture.pixels for picture in subject.pictures], judge,
        prompts=spoken, text=text, looks=looks, strangers=strangers, style=style,
        component=component, component_masks=component_masks,
    )  # fmt: skip
