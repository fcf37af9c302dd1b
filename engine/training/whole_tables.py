"""Token tables that are trained as a whole, as two references have it, instead of a placeholder's rows."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class WholeTables:
    """Trainable copies of text encoders' token tables, in their place until `put_back`."""

    def __init__(self, encoders: Mapping[str, Any]) -> None:
        self._encoders = dict(encoders.items())
        self._own: dict[str, nn.Parameter] = {}
        for name, encoder in self._encoders.items():
            table = encoder.get_input_embeddings()
            self._own[name] = table._parameters["weight"]  # the object itself must come back
            table._parameters["weight"] = nn.Parameter(self._own[name].detach().clone())

    def parameters(self) -> list[nn.Parameter]:
        return [encoder.get_input_embeddings().weight for encoder in self._encoders.values()]

    def tensors(self) -> dict[str, Tensor]:
        """Copies under the artifact's names: `table.<encoder>`."""
        tables = zip(self._encoders, self.parameters())
        return {f"table.{name}": table.detach().float().cpu().clone() for name, table in tables}

    def put_back(self) -> None:
        for name, encoder in self._encoders.items():
            encoder.get_input_embeddings()._parameters["weight"] = self._own[name]
