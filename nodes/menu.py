"""Where each node stands in the menu, the words that find it in the search, and what it shows at first.

Words that people look for and that belong to several nodes stand with the one most of them want first.
"""

CATEGORY = "Likeness"

# node: (folder of the menu, search words)
MENU: dict[str, tuple[str, tuple[str, ...]]] = {
    "LikenessMiniature": ("demo", ("demo", "example", "tiny model", "try out")),
    "LikenessMiniatureStyle": ("demo", ("demo", "example style")),
    "LikenessSegmentText": ("mask", ("segment", "segmentation", "sam", "sam2", "clipseg", "grounding dino",
                                     "birefnet", "remove background", "auto mask", "mask by words")),
    "LikenessParseFace": ("mask", ("hair mask", "face parsing", "face mask", "segment face", "hair",
                                   "mask parts of a face")),
    "LikenessBrushMask": ("mask", ("paint mask", "draw mask", "inpaint mask", "mask by brush")),
    "LikenessDetectFaces": ("mask", ("find faces", "face detection", "crop face", "face crop", "align face",
                                     "bbox", "insightface")),
    "LikenessConcept": ("dataset", ("dataset", "training images", "portrait", "character", "trigger word",
                                    "caption", "concept", "photos", "describe a concept")),
    "LikenessConceptFolder": ("dataset", ("load images", "dataset folder", "photos", "photo folder",
                                          "image folder", "caption", "read a concept folder")),
    "LikenessTrainTextualInversion": ("train", ("train embedding", "textual inversion", "ti", "finetune",
                                                "fine-tune", "learn a word")),
    "LikenessTrainDreamBoothLora": ("train", ("train", "train lora", "lora training", "finetune", "fine-tune",
                                              "fine tune", "portrait", "character lora", "face lora",
                                              "person lora", "learn a lora")),
    "LikenessTrainCustomDiffusion": ("train", ("train lora", "k/v", "cross attention",
                                               "learn how words are heard")),
    "LikenessTrainPersonaMagic": ("train", ("persona", "train embedding", "learn staged words")),
    "LikenessTrainMagicTailor": ("train", ("hair", "swap hair", "hairstyle", "component", "two concepts",
                                           "learn a subject with components")),
    "LikenessTrainMagiCapture": ("train", ("style", "style transfer", "stylize", "portrait style",
                                           "learn a person in a style")),
    "LikenessTrainMasterWeaver": ("train", ("train ipadapter", "train faceid", "identity adapter",
                                            "learn an identity adapter")),
    "LikenessApply": ("use", ("load lora", "lora loader", "apply lora", "embedding", "character",
                              "apply a likeness")),
    "LikenessStagedPrompt": ("use", ("prompt", "text encode", "clip text encode", "write a staged prompt")),
    "LikenessEncodeIdentity": ("face", ("ipadapter", "ip-adapter", "faceid", "instantid", "pulid",
                                        "photomaker", "face swap", "swap face", "one photo",
                                        "reference image", "portrait", "read an identity from pictures")),
    "LikenessApplyIdentity": ("face", ("ipadapter", "ip-adapter", "faceid", "instantid", "pulid", "face swap",
                                       "apply an identity")),
    "LikenessRefocus": ("regions", ("regional prompt", "regional", "region", "two people", "two characters",
                                    "attention couple", "attention", "area", "refocus a word")),
    "LikenessRefocusedSampler": ("regions", ("regional sampler", "regional", "region", "two people",
                                             "attention map", "heat map", "draw with refocused words")),
    "LikenessSave": ("use", ("save lora", "save embedding", "save a likeness")),
    "LikenessLoad": ("use", ("load lora", "load embedding", "load character", "load a likeness")),
    "LikenessExport": ("use", ("save lora", "a1111", "export lora", "save embedding",
                               "export a likeness for other tools")),
    "LikenessRestoreFace": ("face", ("face restore", "restore face", "gfpgan", "codeformer", "restoreformer",
                                     "fix face", "blurry face")),
    "LikenessDetailFace": ("face", ("detailer", "adetailer", "face detailer", "face fix", "fix face",
                                    "inpaint", "inpaint face", "redraw faces")),
    "LikenessUpscale": ("face", ("upscale", "enlarge", "esrgan", "x4", "enlarge pictures")),
    "LikenessMeasure": ("evaluate", ("similarity", "compare", "evaluate", "face distance", "clip score",
                                     "measure a likeness")),
    "LikenessGrid": ("evaluate", ("xy plot", "xyz plot", "plot", "compare", "evaluate", "similarity grid",
                                  "draw a grid with scores")),
}  # fmt: skip

_LEARNING = ("text_encoder", "prior", "masked", "preview_every", "resolution", "precision", "more_settings",
             "stop_by_likeness", "checkpoint_minutes", "rank", "vectors")  # fmt: skip
_EDGES = ("soft", "level", "fill_holes", "keep_largest", "invert")
_GATED = ("number", "strength", "feather", "match_colours", "gate", "allowed_drop", "judged_by")

# node: inputs that stay out of sight until somebody asks for them
ADVANCED: dict[str, tuple[str, ...]] = {
    "LikenessSegmentText": _EDGES,
    "LikenessParseFace": _EDGES,
    "LikenessDetectFaces": ("number",),
    "LikenessConcept": ("faces",),
    "LikenessConceptFolder": ("number", "faces"),
    "LikenessTrainTextualInversion": _LEARNING,
    "LikenessTrainDreamBoothLora": _LEARNING,
    "LikenessTrainCustomDiffusion": _LEARNING,
    "LikenessTrainPersonaMagic": _LEARNING,
    "LikenessTrainMagicTailor": (*_LEARNING, "balance_learning_rate"),
    "LikenessTrainMagiCapture": (*_LEARNING, "identity_weight", "composed"),
    "LikenessTrainMasterWeaver": (*_LEARNING, "people", "batch_size", "pack"),
    "LikenessStagedPrompt": ("bypass", "late", "start", "end", "stages"),
    "LikenessEncodeIdentity": ("keep",),
    "LikenessApplyIdentity": ("start", "end", "layers"),
    "LikenessRefocus": ("mode", "scope", "strength", "schedule", "start", "end", "find_at", "inside"),
    "LikenessRefocusedSampler": ("restart",),
    "LikenessRestoreFace": _GATED,
    "LikenessDetailFace": (*_GATED, "cfg", "sampler_name", "scheduler", "around"),
    "LikenessUpscale": ("tile", "margin"),
    "LikenessGrid": ("negative", "seed"),
    "LikenessApply": ("trigger_word",),
}
