"""An insightface pack whose networks are made here: a detector of bright squares, a recogniser of means."""

from pathlib import Path

import numpy as np

from likeness_portraits.engine.data.packs import PACKS

SIDE = 96  # pixels of the tiny detector


def bright_detector_pack(root: Path) -> Path:
    """AuraFace's files with a detector of bright squares and a recogniser of 48 numbers."""
    folder = root / "models" / "auraface"
    folder.mkdir(parents=True)
    _bright_detector(folder / PACKS["auraface"].detector)
    _mean_recogniser(folder / PACKS["auraface"].recogniser)
    return root


def _bright_detector(path: Path) -> None:
    """SCRFD's nine outputs; only cells of 32 pixels that are bright score, each box is its cell."""
    from onnx import TensorProto, helper, numpy_helper

    cells = {stride: 2 * (SIDE // stride) ** 2 for stride in (8, 16, 32)}
    values: dict[str, np.ndarray] = {"zero": np.zeros((9, 1), np.float32), "flat": np.array([9, 1]),
                                     "pairs": np.array([18, 1]), "gain": np.array(8, np.float32)}  # fmt: skip
    names = []
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        for stride, count in cells.items():
            names.append((f"{kind}{stride}", [count, width]))
            values[f"{kind}{stride}v"] = np.zeros((count, width), np.float32)
    values["box32v"][:] = [0, 0, 1, 1]
    values["points32v"][:] = np.array([0.3, 0.4, 0.7, 0.4, 0.5, 0.6, 0.35, 0.8, 0.65, 0.8], np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("ReduceMean", ["pooled"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Reshape", ["grey", "flat"], ["column"]),
        helper.make_node("Mul", ["column", "gain"], ["steep"]),
        helper.make_node("Sigmoid", ["steep"], ["sure"]),
        helper.make_node("Concat", ["sure", "zero"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "pairs"], ["score32"]),
        *(helper.make_node("Identity", [f"{name}v"], [name]) for name, _ in names if name != "score32"),
    ]
    graph = helper.make_graph(
        nodes, "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )  # fmt: skip
    _write(graph, path)


def _mean_recogniser(path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["pooled"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "recogniser",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 48])],
    )  # fmt: skip
    _write(graph, path)


def _write(graph, path: Path) -> None:
    import onnx

    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
