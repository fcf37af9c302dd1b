"""The baselines against the bare base and each other: what every method of the papers is compared with."""

from .bench import Arm, Bench, Metrics
from .written import claims_of

_PAPER = "arXiv 2208.01618, 2208.12242, 2212.04488"  # Textual Inversion, DreamBooth, Custom Diffusion


REAL = Arm(name="the real person", options={"drawn by": "the renderer"})
# equal budgets (bench.BUDGET): 300 steps of 4 pictures; 200 steps of 4 and 2 of the class
TEXTUAL_INVERSION = Arm(name="textual-inversion", method="textual-inversion", settings={"steps": 300})
DREAMBOOTH = Arm(name="dreambooth-lora", method="dreambooth-lora", settings={"steps": 200})
CUSTOM = Arm(name="custom-diffusion", method="custom-diffusion", settings={"steps": 200})


class Baselines:
    """One person learned from four pictures, by each baseline with the same number of U-Net passes."""

    name = "baselines"
    paper = _PAPER
    arms = (
        Arm(name="base"),
        REAL,
        TEXTUAL_INVERSION,
        DREAMBOOTH,
        CUSTOM,
        Arm(
            name="dreambooth-lora, whole pictures",
            method="dreambooth-lora",
            settings={"steps": 200, "masked_loss": False},
            headline=False,
        ),
    )
    claims = claims_of(
        """
        The judges know the real person from strangers, or nothing here means anything
            the real person > base in identity
        Keys and values of the prompt alone carry a likeness
            custom-diffusion > base in identity
        Keys and values alone obey prompts as the base does, within 5 points
            custom-diffusion >= base - 0.05 in prompt
        Words alone carry a likeness
            textual-inversion > base in identity
        A LoRA carries a likeness
            dreambooth-lora > base in identity
        A LoRA carries more of it than words
            dreambooth-lora > textual-inversion in identity
        Words alone obey prompts as the base does, within 5 points
            textual-inversion >= base - 0.05 in prompt
        A LoRA obeys prompts as the base does, within 5 points
            dreambooth-lora >= base - 0.05 in prompt
        The loss inside masks keeps the pictures' context out
            dreambooth-lora < dreambooth-lora, whole pictures in leakage
        """
    )

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        return bench.portrait_of_the_real(person) if arm is REAL else bench.portrait(arm, person, seed)
