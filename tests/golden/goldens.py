"""Reading reference numbers: inputs `in.*`, expected outputs `out.*`, and weights made by the fill rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

FOLDER = Path(__file__).parent


class Golden:
    """One case: tensors by name, JSON entries of the metadata by key."""

    def __init__(self, method: str, case: str) -> None:
        with safe_open(FOLDER / method / f"{case}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            self.metadata = file.metadata()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def json(self, key: str) -> Any:
        return json.loads(self.metadata[key])

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin so, without that beginning."""
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def filled(self, params: str = "params", seed: str = "fill_seed") -> dict[str, torch.Tensor]:
        """Weights by the fill rule: too large for the file, the same on every machine."""
        number = int(self.metadata[seed])
        return {name: fill(name, shape, j, number) for j, (name, shape) in enumerate(self.json(params))}


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Asserts that the numbers are these, in whatever precision each is kept."""
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)


def uniform(count: int, number: int, seed: int) -> np.ndarray:
    """`count` values in [-1, 1) from integer arithmetic alone."""
    mask = np.uint64(0xFFFFFFFF)
    x = (
        np.arange(count, dtype=np.uint64) * np.uint64(2654435761)
        + np.uint64(number) * np.uint64(2246822519)
        + np.uint64(seed) * np.uint64(3266489917)
        + np.uint64(374761393)
    ) & mask
    x ^= x >> np.uint64(15)
    x = (x * np.uint64(2246822519)) & mask
    x ^= x >> np.uint64(13)
    x = (x * np.uint64(3266489917)) & mask
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2147483648.0 - 1.0


def fill(name: str, shape: list[int], number: int, seed: int) -> torch.Tensor:
    """Parameter `number` of a case."""
    values = uniform(int(np.prod(shape)), number, seed).reshape(shape)
    if len(shape) >= 2:
        values = values * np.sqrt(3.0 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return torch.from_numpy(values).float()
