"""The registry of methods: a name on the command line, and the class that learns that way.

A method (`base.Method`) is given the base and the concepts; it draws batches, returns losses, names what each
phase trains, previews, and at last writes what it learned. Its settings are in `engine.config`.
"""

from importlib import import_module

CLASSES = {
    "textual-inversion": ("baselines", "TextualInversion"),
    "dreambooth-lora": ("baselines", "DreamBoothLora"),
    "custom-diffusion": ("custom_diffusion", "CustomDiffusion"),
    "personamagic": ("personamagic", "PersonaMagic"),
    "magictailor": ("magictailor", "MagicTailor"),
    "magicapture": ("magicapture", "MagiCapture"),
    "masterweaver": ("masterweaver", "MasterWeaver"),
}


def method_class(name: str) -> type:
    """The `Method` of that name; its file is imported only now."""
    module, attribute = CLASSES[name]
    return getattr(import_module(f".{module}", __package__), attribute)
