"""Networks from folders in transformers' layout, without running anything that the folder brings or names."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import LikenessError, first_line
from ..files import reading
from .tensors import refuse_programs

# PyTorch's own; for others transformers fetches a kernel, where the library for these is installed
MOST_LAYERS = 10_000  # known: up to some hundreds, of channels in a block some thousands
LOST = 0.05  # share of a network's tensors that its files may lack; files of other networks lack most
OWN_ATTENTION = ("eager", "sdpa", "None", "")


def from_folder(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained(folder)` from this machine's files alone.

    Refused is a folder that leads elsewhere: to code from the hub (an attention that is not PyTorch's own, or
    quantised weights, for both of which transformers fetches kernels and runs them), to another model (an
    adapter's folder), or to weights that lie outside of it. Modules lying in the folder (`auto_map`) are
    never imported, nor is anybody asked whether to.
    """
    check_config(folder / "config.json")
    _check_files(folder)
    if kind.__name__.startswith("Auto"):  # only these look for modules in the folder
        options["trust_remote_code"] = False
    return kind.from_pretrained(folder, local_files_only=True, **options)


def pretrained(kind: Any, folder: Path, again: str = "get it again") -> Any:
    """As `from_folder`; whatever fails is a LikenessError, which ends with `again`, what to do.

    A network comes in fp32, in evaluation mode and without gradients; where its files lack weights it is
    refused, for transformers would make them up.
    """
    words = "Tokenizer" in kind.__name__
    try:
        if words:
            return from_folder(kind, folder)
        network, info = from_folder(kind, folder, output_loading_info=True)
    except LikenessError:
        raise
    except Exception as error:  # transformers, safetensors and tokenizers each raise their own
        reason = first_line(error)
        raise LikenessError(f"{folder} cannot be read as {kind.__name__} ({reason}); {again}") from error
    missing = sorted(info["missing_keys"])
    if len(missing) > LOST * len(network.state_dict()):
        raise LikenessError(
            f"{folder} lacks {len(missing)} weights of {type(network).__name__}, such as {missing[0]}; "
            f"{again}"
        )
    return network.float().eval().requires_grad_(False)


def check_config(path: Path) -> None:
    """Raises for a config.json that asks for code, or for more layers than any model has."""
    config = _json_in(path)
    for value in _attentions(config):
        inner = value.values() if isinstance(value, Mapping) else [value]
        if any(each not in OWN_ATTENTION for each in map(str, inner)):
            raise LikenessError(
                f"{path} asks for code from the web ('{value}' as attn_implementation); remove that line, or "
                "get the model elsewhere"
            )
    for key, count in _counts(config):
        if count > MOST_LAYERS:
            raise LikenessError(f"{path} says '{key}' is {count}, which no model has; get the model again")
    if any(entry.get("quantization_config") is not None for entry in _mappings(config)):
        raise LikenessError(
            f"{path} is of quantised weights, which need code of their own; get the model in fp16"
        )


def _check_files(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise LikenessError(
            f"{folder} holds an adapter, which names another model to load; get the whole model, or remove "
            "adapter_config.json"
        )
    for path in folder.glob("*.index.json"):
        index = _json_in(path)
        names = index.get("weight_map") if isinstance(index, Mapping) else None
        for name in set(map(str, names.values())) if isinstance(names, Mapping) else ():
            if any(mark in name for mark in "/\\:"):
                raise LikenessError(
                    f"{path} names weights outside of its folder ('{name}'); get the model again"
                )
    for path in folder.glob("*.bin"):
        with reading(path, "is no PyTorch file, or is damaged; get it again"):
            refuse_programs(path)


def _json_in(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # there is none, or the library says what is wrong with it


def _attentions(config: Any) -> Iterator[Any]:
    """Every attention, and whatever else has implementations, that a configuration or one inside it names."""
    for entry in _mappings(config):
        yield from (value for key, value in entry.items() if key.endswith("_implementation"))


def _counts(config: Any) -> Iterator[tuple[str, int]]:
    """Every number of layers or blocks, which the libraries would build one by one before they look at the
    weights."""
    for entry in _mappings(config):
        for key, value in entry.items():
            if any(word in key for word in ("layer", "block", "depth")):
                waiting = [value]
                while waiting:
                    one = waiting.pop()
                    if isinstance(one, int):
                        yield key, one
                    elif isinstance(one, list):
                        waiting += one


def _mappings(config: Any) -> Iterator[Mapping[str, Any]]:
    """A configuration and all inside it."""
    waiting = [config]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Mapping):
            yield entry
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
