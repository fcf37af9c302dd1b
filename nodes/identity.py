"""Drawing somebody from pictures of them, without learning: identity adapters such as MasterWeaver's."""

from collections.abc import Sequence

from comfy_api.latest import io, ui

from .types import NO_MODEL, Identity, Likeness, face_packs, schema, single


class LikenessEncodeIdentity(io.ComfyNode):
    """One to three pictures of a person, as an adapter knows them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessEncodeIdentity",
            display_name="Face Identity from Images",
            is_input_list=True,  # a folder's list of pictures is one person, not one each
            description="Looks at one to three pictures of a person through an identity adapter: finds the "
            "face, turns it upright, cuts it out. Nothing is learned, so it takes seconds.",
            inputs=[
                io.Image.Input(
                    "images", display_name="images",
                    tooltip="One to three pictures of the same person, from the front and sharp. More help "
                    "when a single one does not show the person well.",
                ),
                Likeness.Input(
                    "adapter", display_name="adapter", optional=True,
                    tooltip="An identity adapter from Load Likeness, such as MasterWeaver's. Leave it "
                    "unconnected for the Miniature's own.",
                ),
                io.ClipVision.Input(
                    "clip_vision", display_name="clip vision", optional=True,
                    tooltip="From Load CLIP Vision: the image tower the adapter was trained with, CLIP "
                    "ViT-L/14 for MasterWeaver's. The Miniature has its own.",
                ),
                io.Mask.Input(
                    "masks", display_name="masks", optional=True,
                    tooltip="White on the face, one mask per picture, instead of finding it. Connect them "
                    "when the wrong face is found, or without face models.",
                ),
                io.Combo.Input(
                    "keep", options=["face and hair", "face"], display_name="keep", default="face and hair",
                    optional=True,
                    tooltip="What of the pictures counts. Choose face when prompts change the hair.",
                ),
                io.Combo.Input(
                    "pack", options=[*face_packs(), NO_MODEL],
                    display_name="face model", default="auraface", optional=True,
                    tooltip="Which insightface models find the face in photographs: auraface may be used for "
                    "anything, the others for non-commercial research. The Miniature needs none.",
                ),
            ],
            outputs=[
                Identity.Output(
                    display_name="identity", tooltip="The person; connect it to Apply Face Identity."
                ),
                io.Image.Output(
                    display_name="references",
                    tooltip="What the adapter saw of each picture. Look them over: a hat or a second face "
                    "does not belong there.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images: list, adapter: Sequence = (None,), clip_vision: Sequence = (None,),
        masks: list | None = None, keep: Sequence[str] = ("face and hair",),
        pack: Sequence[str] = ("auraface",),
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.identity import encode_identity_images

        found_by = single(pack, "face model")
        read = encode_identity_images(
            single(adapter, "adapter"), images, clip_vision=single(clip_vision, "clip vision"), masks=masks,
            pack=None if found_by == NO_MODEL else found_by, keep=single(keep, "keep"),
        )  # fmt: skip
        return io.NodeOutput(*read, ui=ui.PreviewImage(read.references, cls=cls))


class LikenessApplyIdentity(io.ComfyNode):
    """Somebody into whatever a MODEL draws."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LikenessApplyIdentity",
            display_name="Apply Face Identity",
            description="Lets the model draw this person wherever the prompt says somebody is. Goes with "
            "staged prompts, LoRAs, other attention patches and ControlNets; one node for each person.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The kind of model the adapter was trained for, with LoRAs or without."
                ),
                Identity.Input("identity", tooltip="From Face Identity from Images."),
                io.Float.Input(
                    "weight", display_name="weight", default=1.0, min=0.0, max=3.0, step=0.05,
                    tooltip="How strongly the person shows. Lower it when prompts are ignored, raise it when "
                    "the likeness is weak.",
                ),
                io.Float.Input(
                    "start", display_name="start", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
                    tooltip="From where on the person shows: 0 is pure noise, 1 the finished picture. Raise "
                    "it when the pose of the references comes through.",
                ),
                io.Float.Input(
                    "end", display_name="end", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
                    tooltip="Up to where the person shows. Lower it to leave the last details to the model.",
                ),
                io.Mask.Input(
                    "mask", display_name="mask", optional=True,
                    tooltip="White where this person should be. Connect one for each person when there are "
                    "two, so that everybody keeps their own face.",
                ),
                io.String.Input(
                    "layers", display_name="layers", default="", optional=True,
                    tooltip="Factors for parts of the network, such as up_blocks.1=1.3, mid_block=0. Leave "
                    "it empty unless you try what each part does.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="Connect it to the sampler.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, identity, weight: float, start: float = 0.0, end: float = 1.0, mask=None,
        layers: str = "",
    ) -> io.NodeOutput:  # fmt: skip
        from ..engine.comfy_bridge.identity import apply_identity

        return io.NodeOutput(
            apply_identity(model, identity, weight=weight, start=start, end=end, layers=layers, mask=mask)
        )
