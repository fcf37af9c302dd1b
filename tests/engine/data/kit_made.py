"""The kit's trained networks as the folders in which people keep them."""

from pathlib import Path

RECOGNISERS = ("mobileface", "dlib112")
PEOPLE = "person_k+hair_c"  # MagicTailor's folder: three pictures of each of two people
FIRST = tuple(f"0_person_k{number}.jpg" for number in range(3))
SECOND = tuple(f"1_hair_c{number}.jpg" for number in range(3))


def pack_of(root: Path, kit: Path, recogniser: str, name: str = "mine") -> Path:
    """A face pack under root/models with the kit's detector and one of its recognisers; gives the root."""
    folder = root / "models" / name
    folder.mkdir(parents=True)
    (folder / "any_name.onnx").symlink_to(kit / "yunet_as_scrfd.onnx")
    (folder / "other_name.onnx").symlink_to(kit / f"{recogniser}.onnx")
    return root


def person_folder(folder: Path, kit: Path, names: tuple[str, ...] = FIRST) -> Path:
    """A folder with some of the kit's photographs."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to(kit / PEOPLE / name)
    return folder
