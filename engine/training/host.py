"""Learning on top of what was learned before: concept files whose LoRAs stay in the weights during a run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ..artifact import Artifact
from ..errors import LikenessError
from ..networks.lora import adaptable, merged
from ..networks.token_tables import changed
from .base_model import BaseModel


@contextmanager
def hosted(base: BaseModel, files: Sequence[str]) -> Iterator[None]:
    """The base with the LoRAs of these concept files at full strength; afterwards its own weights are back.

    It is how pseudo-words are learned as a plug-in of a personalised model (arXiv 2412.15674): what is
    learned here belongs with the same files when it is drawn.
    """
    with ExitStack() as stack:
        modules = adaptable(base.unet, list(base.text_encoders.values())) if files else {}
        for file in files:
            host = Artifact.load(file)
            if host.kind != "lora":
                raise LikenessError(f"{file} holds a {host.kind}, not a LoRA; only LoRAs can be learned on")
            if host.base_family != base.family:
                raise LikenessError(
                    f"{file} was learned on a base of the family {host.base_family}, not {base.family}; "
                    "choose another base or another LoRA"
                )
            stack.enter_context(merged(modules, host.lora(), 1.0))
            stack.enter_context(changed(base.text_encoders, host.tables(), 1.0))
        yield
