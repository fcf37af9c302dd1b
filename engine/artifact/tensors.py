"""Tensors on disk: `.safetensors` written whole or not at all; what is read is never run nor trusted."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import LikenessError
from ..files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER = 32 * 2**20  # bytes; the largest real one we know is below 1 MB


def write_tensors(
    path: str | os.PathLike[str], tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]
) -> None:
    from safetensors.torch import save_file

    # copies: safetensors refuses tensors that share memory
    plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in sorted(tensors.items())}
    with write_atomically(path) as temporary:
        save_file(plain, temporary, dict(metadata))


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """A safetensors file's metadata and the shapes of its tensors; reads nothing else."""
    foreign = LikenessError(
        f"{path} is not a .safetensors file, or is damaged; get it again or choose another"
    )
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
                raise foreign
            header = json.loads(file.read(length).decode("utf-8"))
        metadata = header.pop("__metadata__", None) or {}
        shapes = {str(key): tuple(int(side) for side in entry["shape"]) for key, entry in header.items()}
        return {str(key): str(value) for key, value in metadata.items()}, shapes
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise LikenessError(f"{path} is a folder; give a .safetensors file") from error
    except OSError as error:
        raise LikenessError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise foreign from error


def read_pickle(path: str | os.PathLike[str], remedy: str) -> Any:
    """What a file of torch.save holds: tensors and plain containers; nothing in it is run. `remedy` says what
    to do about one that holds more or is damaged."""
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LikenessError(f"{path} does not exist; check the path") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise LikenessError(f"{path} holds more than tensors or is damaged; {remedy}") from error


def read_tensors(path: str | os.PathLike[str]) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise LikenessError(f"{path} is damaged or cut short; get it again or choose another") from error
