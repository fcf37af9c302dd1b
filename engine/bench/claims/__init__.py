"""The claims of the papers, measured: one experiment per paper, on people no network has seen.

The way of the data: an experiment (`personamagic` …) names arms and claims; `table` makes cells of arms,
people and seeds, `run` fills them with what `bench` trains and draws once, `statistics` compares them in
pairs, and `report` shows it. `sweep` chooses settings, on people who are never reported on.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench import Experiment

EXPERIMENTS = {  # name, file, class; a new experiment is a line here
    "baselines": ("baselines", "Baselines"),
    "broken": ("broken", "Broken"),
    "personamagic": ("personamagic", "PersonaMagicClaims"),
    "magictailor": ("magictailor", "MagicTailorClaims"),
    "magicapture": ("magicapture", "MagiCaptureClaims"),
    "masterweaver": ("masterweaver", "MasterWeaverClaims"),
    "refocus": ("refocus", "Refocus"),
}


def experiment(name: str) -> "Experiment":
    """The experiment of that name; its file is imported only now."""
    module, attribute = EXPERIMENTS[name]
    return getattr(import_module(f".{module}", __package__), attribute)()
