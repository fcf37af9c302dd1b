"""Damages and lies, seeded: bytes, plain values, tensors and archives changed as accidents and strangers do.

Each function takes what is whole and a random generator and gives something else, deterministically.
"""

import io
import json
import random
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ODD_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, 0x0A, 0x22, 0x27, 0x2E, 0x50, 0x7B, 0x7D)
ODD_NUMBERS = (0, 1, -1, 2, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**70, 10**400, 0.5, 1e308, float("inf"), float("-inf"),
    float("nan"), "", "x", "²", "-1", "1e999", "null", "\ud800", "a\0b", "a" * 300, "x" * 5000, "../../x",
    "C:\\x", "con", "<v0>", "{}", "{} {x}", "pipe:true", "~nobody/x", "日本", "\u202e", [], [1], [[]], {},
    {"a": 1}, {"": None}, [None], [1, 2, 3], ["a", "b"], {"x": {"y": []}},
)  # fmt: skip
ODD_YAML = (
    '!!int "x"', '!!float ""', '!!timestamp "x"', '!!binary "=="', "!!set {a, b}", "!!omap [a]",
    "!!python/none", "&a [*a]", "&a {b: *a}", "*gone", "[" * 2000, "{" * 2000, "0x" + "f" * 5000, "9" * 5000,
    ".nan", ".inf", "-.inf", "1e999", "2020-01-01", "? [a]", "<<: *a", '"\\ud800"', '"\\0"', "\t", "- a\n b",
    "|", ">", "%TAG", "--- a\n--- b", "'", '"', "[1", "{a: [1}", "@x", "`x`", "!x y", "010", "1:30",
    "yes", "~",
    "null", "0b2",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes as disks, networks and bored people leave them: a few places changed, cut, doubled or moved."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not found:
            found = bytearray(rng.randbytes(8))
        place = rng.randrange(len(found))
        kind = rng.randrange(9)
        if kind == 0:
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[place] = rng.choice(ODD_BYTES)
        elif kind == 2:
            del found[place : place + rng.choice((1, 2, 4, 16, 256, len(found)))]
        elif kind == 3:
            found[place:place] = rng.randbytes(rng.choice((1, 2, 4, 16)))
        elif kind == 4:
            found[place:place] = found[place : place + rng.choice((1, 4, 16, 256))]
        elif kind == 5:
            number = rng.choice(ODD_NUMBERS) & 0xFFFFFFFF
            found[place : place + 4] = struct.pack(rng.choice(("<I", ">I")), number)
        elif kind == 6:
            number = rng.choice(ODD_NUMBERS) & (2**64 - 1)
            found[place : place + 8] = struct.pack(rng.choice(("<Q", ">Q")), number)
        elif kind == 7:
            other, width = rng.randrange(len(found)), rng.choice((1, 4, 16))
            found[place : place + width], found[other : other + width] = (
                found[other : other + width], found[place : place + width],
            )  # fmt: skip
        else:
            found = found[: max(1, place)]
    return bytes(found)


def misspelt(text: str, rng: random.Random) -> str:
    """A YAML or JSON text with odd values, tags and letters in it."""
    lines = text.splitlines() or [""]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(lines))
        key, colon, _ = lines[place].partition(":")
        kind = rng.randrange(5)
        if kind <= 1:
            lines[place] = f"{key}{colon or ':'} {rng.choice(ODD_YAML)}"
        elif kind == 2:
            lines[place] = f"{key}{colon or ':'} {_as_json(rng.choice(ODD_VALUES))}"
        elif kind == 3:
            lines.insert(place, rng.choice(("  ", "- ", "\t", "")) + rng.choice(ODD_YAML))
        else:
            lines[place] = lines[place].replace(rng.choice(" :-{}[],\"'") or " ", rng.choice(":{[\t\"'&*"), 1)
    return "\n".join(lines)


def lied(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A plain value with something else somewhere in it, or with a key more, less or other."""
    if depth > 5 or not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return _odd(value, rng)
    changed = dict(value) if isinstance(value, dict) else list(value)
    keys = list(changed) if isinstance(changed, dict) else list(range(len(changed)))
    key = rng.choice(keys)
    kind = rng.random()
    if kind < 0.7:
        changed[key] = lied(changed[key], rng, depth + 1)
    elif kind < 0.85:
        del changed[key]
    elif isinstance(changed, dict):
        changed[rng.choice(("x", "", "²", "__metadata__", f"{key} ", str(key).upper()))] = changed.pop(key)
    else:
        changed.append(rng.choice(ODD_VALUES))
    return changed


def _odd(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str) and value[:1] in "{[" and value and rng.random() < 0.8:
        try:  # JSON within JSON: what our metadata is
            return json.dumps(lied(json.loads(value), rng))
        except (ValueError, RecursionError):
            return value + rng.choice("]}")
    if rng.random() < 0.05:
        deep: Any = value
        for _ in range(rng.choice((70, 3000))):
            deep = [deep]
        return deep
    return rng.choice(ODD_VALUES)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):  # a number of 400 digits is fine, 3,000 levels are not
        return "[" * 3000


def retold(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header says something else; its tensors stay."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(6)
    if kind == 0 and header.get("__metadata__"):
        header["__metadata__"] = lied(header["__metadata__"], rng)
    elif kind == 1 and names:  # another shape with as many numbers: what comes after must look itself
        entry = header[rng.choice(names)]
        entry["shape"] = reshaped(entry["shape"], rng)
    elif kind == 2 and names:
        name = rng.choice(names)
        header[rng.choice((f"{name}x", name.replace("down", "up"), name.split(".")[0], ""))] = header.pop(
            name
        )
    elif kind == 3 and names:
        header[rng.choice(names)] = dict(header[rng.choice(names)])
    elif kind == 4 and names:
        header[rng.choice(names)]["dtype"] = rng.choice(
            ("I32", "F16", "BF16", "F8_E4M3", "U8", "BOOL", "F64", "X")
        )
    else:
        header = lied(header, rng)
    text = _as_json(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def reshaped(shape: Sequence[int], rng: random.Random) -> list[int]:
    """A shape of as many numbers."""
    count = 1
    for side in shape:
        count *= side
    options = [[count], [1, count], [count, 1], [*shape, 1], [1, *shape], list(reversed(shape))]
    if count == 1:
        options.append([])
    return rng.choice(options)


def other_tensors(tensors: Mapping[str, Tensor], rng: random.Random) -> dict[str, Tensor]:
    """Tensors of other shapes, types and values, with names more, less or other."""
    found = dict(tensors)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(found)) if found else "x"
        tensor = found.get(name, torch.zeros(2, 2))
        kind = rng.random()
        if kind < 0.8:
            found[name] = _odd_tensor(tensor, rng)
        elif kind < 0.88:
            found.pop(name, None)
        elif kind < 0.94:
            others = ("surprise", f"{name}.x", name.split(".")[0], "clip_l", "lora_unet_x.alpha")
            found[rng.choice(others)] = tensor
        elif found:
            found[name] = found[rng.choice(sorted(found))]
    return {name: tensor.clone() for name, tensor in found.items()}


def _odd_tensor(tensor: Tensor, rng: random.Random) -> Tensor:
    sides = list(tensor.shape) or [1]
    changes = (
        lambda: torch.tensor(1.0),
        lambda: torch.zeros(0),
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor.flatten()[:1],
        lambda: torch.zeros([*sides[:-1], sides[-1] + 1]),
        lambda: torch.zeros([sides[0] + 1, *sides[1:]]),
        lambda: torch.zeros([0, *sides[1:]]),
        lambda: tensor.T.contiguous() if tensor.ndim == 2 else tensor,
        lambda: torch.full_like(tensor.float(), float("nan")),
        lambda: torch.full_like(tensor.float(), float("inf")),
        lambda: tensor.to(rng.choice((torch.float16, torch.bfloat16, torch.float64))),
        lambda: tensor.to(rng.choice((torch.int64, torch.uint8, torch.bool))),
        lambda: tensor.to(rng.choice((torch.float8_e4m3fn, torch.float8_e5m2))),
        lambda: tensor.to(torch.complex64),
    )
    return rng.choice(changes)()


def other_object(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """What a pickle holds, with something else somewhere in it."""
    if isinstance(value, Tensor):
        return next(iter(other_tensors({"x": value}, rng).values()), None)
    if isinstance(value, dict) and value and depth < 5 and rng.random() < 0.9:
        changed = dict(value)
        key = rng.choice(sorted(changed, key=str))
        kind = rng.random()
        if kind < 0.75:
            changed[key] = other_object(changed[key], rng, depth + 1)
        elif kind < 0.85:
            del changed[key]
        elif kind < 0.92:
            changed[rng.choice(("x", 5, None, (1, 2), f"{key}x"))] = changed.pop(key)
        else:
            changed[key] = changed  # a pickle may hold itself
        return changed
    return rng.choice(
        (None, 5, "x", [], {}, [value], {"state_dict": value}, (1,), b"x", 1.5, {1: 2}, torch.nn.Linear)
    )


def torch_file(program: bytes, entries: Mapping[str, bytes]) -> bytes:
    """A file as torch.save writes it, around any pickle program."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def other_program(content: bytes, rng: random.Random) -> bytes:
    """A file of torch.save whose pickle program is damaged, its archive whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in entries if name.endswith("data.pkl"))
    program = entries.pop(name)
    root = name.split("/")[0]
    if rng.random() < 0.2:
        opcodes = b"(.0129FIJKLMRSTUVXabcdeghijlopqrstu}]\x80\x81\x82\x85\x86\x87\x88\x8c\x8e\x90\x94"
        program = b"\x80\x02" + bytes(rng.choice(opcodes) for _ in range(rng.randrange(1, 12))) + b"."
    else:
        program = damaged(program, rng)
    return torch_file(program, {key.replace(root, "archive", 1): entry for key, entry in entries.items()})
