"""The start of a workflow that needs no file: our own tiny model, and a person it has never seen."""

from comfy_api.latest import io

from .types import schema

SD, FLUX2 = "SD 1.x", "FLUX.2"
_BASES = (SD, FLUX2)  # of the first Miniature and of the second
_STYLES = ("sketch", "poster", "watercolor")  # engine.miniature.styles.STYLES; that file is heavy


class LikenessMiniature(io.ComfyNode):
    """MODEL, CLIP and VAE of the Miniature, and a few pictures of one made-up person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessMiniature",
            display_name="Load Demo Model (Miniature)",
            description="A tiny portrait model that comes with Likeness, and pictures of a made-up person "
            "to learn. Nothing is downloaded. Use it to try things out in seconds, then put a checkpoint "
            "in its place.",
            inputs=[
                io.Int.Input(
                    "person", display_name="person", default=0, min=0, max=99, step=1,
                    tooltip="Which made-up person to show; the model was trained without any of them. "
                    "Change it to try another face.",
                ),
                io.Int.Input(
                    "pictures", display_name="how many images", default=4, min=1, max=16, step=1,
                    tooltip="How many different pictures of that person to give. Raise it to see how much "
                    "more pictures help.",
                ),
                io.Combo.Input(
                    "architecture", options=list(_BASES), display_name="architecture", default=SD,
                    optional=True,
                    tooltip="What kind of model it is, in small. FLUX.2 has joint attention, rectified flow "
                    "and latents of 16 channels, and needs ComfyUI 0.26 or newer. Change it to try the "
                    "kind that you draw with.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The Miniature's U-Net or transformer, for 128 x 128 pictures.",
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="Its text encoder, with a vocabulary of its own.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="Its autoencoder."),
                io.Image.Output(display_name="images", tooltip="Pictures of the person, 128 x 128."),
                io.Mask.Output(display_name="masks", tooltip="Where the person is in each picture."),
                io.String.Output(display_name="class word", tooltip="What the person is: man or woman."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, person: int, pictures: int, architecture: str = SD) -> io.NodeOutput:
        from ..engine.comfy_bridge.miniature import build_miniature, miniature_person
        from ..engine.comfy_bridge.second_miniature import build_second_miniature

        build = build_miniature if architecture == SD else build_second_miniature
        return io.NodeOutput(*build(), *miniature_person(person, pictures))


class LikenessMiniatureStyle(io.ComfyNode):
    """Pictures of one style in the Miniature's world, for methods that learn a person and a style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessMiniatureStyle",
            display_name="Demo Style Images (Miniature)",
            description="A few made-up strangers, all drawn in one style, with masks that leave their heads "
            "out. To try Train Person + Style without pictures of your own.",
            inputs=[
                io.Combo.Input(
                    "style", options=list(_STYLES), display_name="style", default="watercolor",
                    tooltip="Which of the world's styles the pictures show. Change it to see another one "
                    "learned.",
                ),
                io.Int.Input(
                    "pictures", display_name="how many images", default=5, min=1, max=16, step=1,
                    tooltip="How many pictures to give. Fewer make it harder to tell the style from what is "
                    "on them.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Strangers in that style, 128 x 128."),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="White everywhere but on the heads: that is where the style is learned.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, style: str, pictures: int) -> io.NodeOutput:
        from ..engine.comfy_bridge.miniature import miniature_style

        return io.NodeOutput(*miniature_style(style, pictures))
