"""What a method can do and what it holds: one value, read by the memory plan, the trainer and jobs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Of a method with one job's settings; it says yes once its gradients are known to stay the same."""

    half: bool = False  # the frozen networks in bf16
    checkpointing: bool = False  # the U-Net's inner states computed again: no hook may be gone by then
    splitting: bool = False  # the rows of a step through the U-Net in parts
    estimate: bool = True  # what it holds can be copied, to find out what a step needs
    cached_latents: bool = True  # the autoencoder is not needed from step to step
    trained_text: bool = True  # gradients go through the text encoders
    copies: int = 0  # of what is trained: teachers, averages
    buckets: bool = False  # its batches may hold pictures of any one size; else all are cropped to squares
    mirroring: bool = False  # the job may ask it to learn pictures mirrored too
    hooked_layers: bool = True  # a step hangs hooks into the layers: they are not compiled as a whole
    sharded_base: bool = False  # the U-Net may lie in pieces: nothing in it is trained or changed
    plain_words: bool = True  # prompts are read as they are: a loss of single pictures can be asked for
    class_pictures: bool = False  # pictures of the class are learned beside: they may be given
    empty_prompts: bool = False  # a step teaches without words too: captions may be dropped
