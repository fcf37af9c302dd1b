"""The baselines against the bare base and each other: what every method of the papers is compared with."""

from .bench import Arm, Bench, Claim, Metrics

PAPER = "arXiv 2208.01618, 2208.12242, 2212.04488"  # Textual Inversion, DreamBooth, Custom Diffusion


REAL = Arm(name="the real person", options={"drawn by": "the renderer"})
# equal budgets (bench.BUDGET): 300 steps of 4 pictures; 200 steps of 4 and 2 of the class
INVERSION = Arm(name="textual-inversion", method="textual-inversion", settings={"steps": 300})
DREAMBOOTH = Arm(name="dreambooth-lora", method="dreambooth-lora", settings={"steps": 200})
CUSTOM = Arm(name="custom-diffusion", method="custom-diffusion", settings={"steps": 200})


class Baselines:
    """One person learned from four pictures, by each baseline with the same number of U-Net passes."""

    name = "baselines"
    paper = PAPER
    arms = (
        Arm(name="base"),
        REAL,
        INVERSION,
        DREAMBOOTH,
        CUSTOM,
        Arm(
            name="dreambooth-lora, whole pictures",
            method="dreambooth-lora",
            settings={"steps": 200, "masked_loss": False},
            headline=False,
        ),
    )
    claims = (
        Claim(
            claim="The judges know the real person from strangers, or nothing here means anything",
            method="the real person", against="base", metric="identity",
        ),
        Claim(
            claim="Keys and values of the prompt alone carry a likeness",
            method="custom-diffusion", against="base", metric="identity",
        ),
        Claim(
            claim="Keys and values alone obey prompts as the base does, within 5 points",
            method="custom-diffusion", against="base", metric="prompt", better="not lower", margin=0.05,
        ),
        Claim(
            claim="Words alone carry a likeness",
            method="textual-inversion", against="base", metric="identity",
        ),
        Claim(
            claim="A LoRA carries a likeness",
            method="dreambooth-lora", against="base", metric="identity",
        ),
        Claim(
            claim="A LoRA carries more of it than words",
            method="dreambooth-lora", against="textual-inversion", metric="identity",
        ),
        Claim(
            claim="Words alone obey prompts as the base does, within 5 points",
            method="textual-inversion", against="base", metric="prompt", better="not lower", margin=0.05,
        ),
        Claim(
            claim="A LoRA obeys prompts as the base does, within 5 points",
            method="dreambooth-lora", against="base", metric="prompt", better="not lower", margin=0.05,
        ),
        Claim(
            claim="The loss inside masks keeps the pictures' context out",
            method="dreambooth-lora", against="dreambooth-lora, whole pictures", metric="leakage",
            better="lower",
        ),
    )  # fmt: skip

    def measure(self, arm: Arm, person: int, seed: int, bench: Bench) -> Metrics:
        return bench.portrait_of_the_real(person) if arm is REAL else bench.portrait(arm, person, seed)
