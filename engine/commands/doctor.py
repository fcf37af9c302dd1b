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
        str | None,
        Option(
            help="With --data: find faces with this pack and say who is in the pictures: auraface, "
            "antelopev2, buffalo_l or any folder beside them; or miniature."
        ),
    ] = None,
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


def _doctor_of_pictures(folder: Path, pack: str | None, root: Path | None) -> int:
    """A line of numbers per picture with what to do about it; the exit status stays 0: advice is no error."""
    from ..data.concepts import load_concept
    from ..data.heads import advice_on_heads, look
    from ..data.quality import advice_on_all, examine_pictures

    concept = load_concept(folder, class_word="subject")
    pictures = concept.pictures
    for remark in concept.remarks:
        say(f"·  {remark}")
    sides: list[float | None] | None = None
    heads: list[list[str]] | None = None
    if pack is not None:
        from ..data.faces import provider_line
        from ..inference.onlookers import eyes_of

        finder = eyes_of(pack, packs=root)
        say(f"·  {provider_line(pack, finder.provider, 'cpu')}")
        seen = [look(picture.pixels, finder) for picture in pictures]
        sides, heads = [one.side for one in seen], advice_on_heads(seen, [one.name for one in pictures])
    reports = examine_pictures(pictures, sides, heads=heads)
    for report in reports:
        mark = "·" if report.advice else "✓"
        face = "" if report.face is None else f"  {'face' if pack else 'mask'} {report.face:.0f} px"
        masked = "" if report.coverage is None else f"  marked {report.coverage:.0%}"
        size = f"{report.size[1]} x {report.size[0]}"
        say(f"{mark}  {report.name:<22}  {size}  sharpness {report.sharpness:.0f}{face}{masked}")
        for advice in report.advice:
            say(f"     {advice}")
    for advice in advice_on_all(reports):
        say(f"·  {advice}")
    return 0
