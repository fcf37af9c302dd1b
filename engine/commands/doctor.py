"""`likeness doctor`: what this machine and these pictures are fit for."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ..console import say
from .apps import USER_MISTAKE, app


@app.command()
def doctor(
    data: Annotated[
        Path | None, Option(help="Look at the pictures of this concept folder instead, with advice on each.")
    ] = None,
    faces: Annotated[
        str,
        Option(
            help="With --data, who looks at the faces and says who is in the pictures: auraface, antelopev2, "
            "buffalo_l or any pack beside them, miniature, nobody; automatic takes what is there."
        ),
    ] = "automatic",
    models: Annotated[Path | None, Option(help="Folder whose models/ holds face packs.")] = None,
) -> int:
    """Show versions, devices, onnxruntime's state and folders, and what is wrong with them."""
    if data is not None:
        return _doctor_of_pictures(data, faces, models)
    from ..data.packs import default_root, packs_in, terms_of
    from ..doctor import examine

    findings = examine()
    for finding in findings:
        say(f"{finding.mark}  {finding.what:<22}  {finding.state}")
    root = models or default_root()
    for pack in packs_in(root):
        for line in terms_of(root / "models" / pack):
            say(f"·  {f'face pack {pack}':<22}  {line}")
    return USER_MISTAKE if any(finding.mark == "✗" for finding in findings) else 0


def _doctor_of_pictures(folder: Path, pack: str, root: Path | None) -> int:
    """A line of numbers per picture with what to do about it; the exit status stays 0: advice is no error."""
    from ..data.concepts import load_concept
    from ..data.quality import advice_on_all
    from ..inference.heads import examined

    concept = load_concept(folder, class_word="subject")
    for remark in concept.remarks:
        say(f"·  {remark}")
    reports, looked = examined(concept, pack, root)
    if looked:
        say(f"·  {looked}")
    for report in reports:
        mark = "·" if report.advice else "✓"
        face = "" if report.face is None else f"  {'face' if report.looked else 'mask'} {report.face:.0f} px"
        masked = "" if report.coverage is None else f"  marked {report.coverage:.0%}"
        size = f"{report.size[1]} x {report.size[0]}"
        say(f"{mark}  {report.name:<22}  {size}  sharpness {report.sharpness:.0f}{face}{masked}")
        for advice in report.advice:
            say(f"     {advice}")
    for advice in advice_on_all(reports):
        say(f"·  {advice}")
    return 0
