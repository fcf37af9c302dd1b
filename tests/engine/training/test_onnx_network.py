"""Networks stored as ONNX, run by torch: what onnxruntime gives, with gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness_portraits.engine.data.alignment import arcface_crop
from likeness_portraits.engine.data.faces import load_faces
from likeness_portraits.engine.data.pictures import read_picture
from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.arcface import load_recogniser
from likeness_portraits.engine.training.onnx_network import OnnxNetwork
from likeness_portraits.tests.engine.data.kit_made import FIRST, PEOPLE, RECOGNISERS, SECOND, pack_of

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.mark.real
@pytest.mark.parametrize("recogniser", RECOGNISERS)
def test_torch_and_onnxruntime_agree_on_real_faces(kit: Path, tmp_path: Path, recogniser: str):
    finder = load_faces("mine", pack_of(tmp_path, kit, recogniser))
    network = load_recogniser(kit / f"{recogniser}.onnx")
    for name in (*FIRST, *SECOND):
        pixels = read_picture(kit / PEOPLE / name)
        (face,) = finder(pixels)
        crop = torch.from_numpy(arcface_crop(pixels, face.landmarks.astype(np.float64)).copy())
        values = ((crop.permute(2, 0, 1)[None].float() - 127.5) / 127.5).requires_grad_()
        found = F.normalize(network(values), dim=-1)
        assert np.abs(found[0].detach().numpy() - face.embedding).max() <= 1e-5
    found[0, 0].backward()
    assert values.grad.isfinite().all() and values.grad.abs().max() > 0
    assert not any(value.requires_grad for value in network.parameters())


class Mixed(nn.Module):
    """What small recognisers are made of: grouped and padded convolutions, pools, squeezes, a linear end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm, self.slope = nn.BatchNorm2d(8), nn.PReLU(8)
        self.each = nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=8, dilation=1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.last = nn.Linear(8 * 14 * 14, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.norm(self.first(x)))
        x = x + F.hardswish(self.each(x))
        weight = torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = F.max_pool2d(x * weight, 3, 2, 1)
        x = torch.cat([F.avg_pool2d(x[:, :4], 2), F.pad(x[:, 4:], (1, 1, 1, 1))[:, :, 1:-1:2, 1:-1:2]], 1)
        x = self.last(x.flatten(1)).clamp(-3, 3)
        return x / x.norm(dim=1, keepdim=True)


def exported(network: nn.Module, path: Path, side: int = 112) -> Path:
    torch.onnx.export(
        network.eval(), (torch.zeros(1, 3, side, side),), str(path), dynamo=False, input_names=["face"],
        dynamic_axes={"face": {0: "batch"}}, training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False, opset_version=16,
    )  # fmt: skip
    return path


def test_a_network_of_many_kinds_of_layers_gives_what_onnxruntime_gives(tmp_path: Path):
    torch.manual_seed(0)
    network = Mixed()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    path = exported(network, tmp_path / "mixed.onnx")
    values = torch.rand(3, 3, 112, 112) * 2 - 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"face": values.numpy()})[0]
    np.testing.assert_allclose(OnnxNetwork(path)(values).detach().numpy(), expected, atol=2e-6)


def test_an_old_export_that_scales_its_pixels_gets_them_as_it_wants(tmp_path: Path):
    """insightface gives pixels from 0 to 255 to graphs that begin with nodes called Sub and Mul."""
    value, tensor = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("Sub", ["data", "middle"], ["a"], name="_minusscalar0"),
        onnx.helper.make_node("Mul", ["a", "scale"], ["b"], name="_mulscalar0"),
        onnx.helper.make_node("Flatten", ["b"], ["out"]),
    ]
    stored = [
        onnx.numpy_helper.from_array(np.float32(127.5), "middle"),
        onnx.numpy_helper.from_array(np.float32(1 / 128), "scale"),
    ]
    graph = onnx.helper.make_graph(
        nodes, "old", [value("data", tensor, [1, 3, 112, 112])], [value("out", tensor, [1, 37632])], stored
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "old.onnx")
    values = torch.rand(1, 3, 112, 112) * 2 - 1
    torch.testing.assert_close(OnnxNetwork(tmp_path / "old.onnx")(values), values.flatten(1) * 127.5 / 128)


def test_what_cannot_be_differentiated_is_named(tmp_path: Path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NonZero", ["face"], ["out"])], "odd",
        [onnx.helper.make_tensor_value_info("face", onnx.TensorProto.FLOAT, [1, 3, 112, 112])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.INT64, None)],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), tmp_path / "odd.onnx")
    with pytest.raises(LikenessError, match=r"odd\.onnx computes with NonZero, which gradients cannot be"):
        load_recogniser(tmp_path / "odd.onnx")
