"""The face recogniser: equal to onnxruntime on the same file, from every source, and differentiable."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from likeness_portraits.engine.errors import LikenessError
from likeness_portraits.engine.training.arcface import load_recogniser

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTHS = (8, 8, 12, 16, 16)  # stem and the four stages; the real ones are 64, 64, 128, 256, 512
R50, R100 = (3, 4, 14, 3), (3, 13, 30, 3)


class Residual(nn.Module):
    """arcface_torch's block, with its names."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(out), nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1:
            short = nn.Conv2d(inside, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(short, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class Reference(nn.Module):
    """arcface_torch's network, narrow."""

    def __init__(self, depths: tuple[int, ...], embedding: int = 24) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1, self.prelu = nn.BatchNorm2d(WIDTHS[0]), nn.PReLU(WIDTHS[0])
        for stage, depth in enumerate(depths):
            inside, out = WIDTHS[stage], WIDTHS[stage + 1]
            blocks = [Residual(inside if n == 0 else out, out, 2 if n == 0 else 1) for n in range(depth)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn2, self.fc = nn.BatchNorm2d(WIDTHS[-1]), nn.Linear(WIDTHS[-1] * 49, embedding)
        self.features = nn.BatchNorm1d(embedding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))


def reference(depths: tuple[int, ...]) -> Reference:
    torch.manual_seed(0)
    network = Reference(depths).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.weight.uniform_(0.6, 1.2)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.PReLU):
                module.weight.uniform_(0.1, 0.4)
    return network


def exported(network: nn.Module, path: Path, folded: bool) -> Path:
    torch.onnx.export(
        network, (torch.randn(1, 3, 112, 112),), str(path), dynamo=False, input_names=["input.1"],
        training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=folded, dynamic_axes={"input.1": {0: "batch"}},
    )  # fmt: skip
    return path


def faces(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("depths", [R50, R100])
def test_an_onnx_recogniser_gives_what_onnxruntime_gives(depths, tmp_path):
    path = exported(reference(depths), tmp_path / "net.onnx", folded=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input.1": faces().numpy()})[0]
    found = load_recogniser(path)(faces()).numpy()
    assert found.shape == (2, 24)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_checkpoints_and_exports_of_one_network_are_one_network(tmp_path):
    network = reference((1, 2, 1, 1))
    with torch.no_grad():
        expected = network(faces())
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "a.pth")
    exports = [exported(network, tmp_path / f"{folded}.onnx", folded) for folded in (True, False)]
    operations = [[node.op_type for node in onnx.load(path).graph.node] for path in exports]
    assert operations[1].count("BatchNormalization") > operations[0].count("BatchNormalization")
    for path in (*exports, tmp_path / "a.pth"):
        torch.testing.assert_close(load_recogniser(path)(faces()), expected, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_pixels_and_stop_at_the_weights(tmp_path):
    torch.save(reference((1, 1, 1, 1)).state_dict(), tmp_path / "a.pth")
    network, pixels = load_recogniser(tmp_path / "a.pth"), faces().requires_grad_()
    network(pixels).square().sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().max() > 0
    assert not any(weight.requires_grad for weight in network.parameters())


def kept_for_gradients(network: nn.Module) -> int:
    """Bytes that a pass leaves for its backward pass, beside the weights."""
    weights = {weight.data_ptr() for weight in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        embedding = network(faces().requires_grad_())
    assert embedding.requires_grad
    return sum(kept.values())


def test_a_checkpoint_keeps_no_more_for_gradients_than_its_folded_export(tmp_path):
    network = reference((1, 2, 1, 1))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    folded = kept_for_gradients(load_recogniser(exported(network, tmp_path / "a.onnx", folded=True)))
    found = kept_for_gradients(load_recogniser(tmp_path / "a.pth"))
    assert found <= folded < kept_for_gradients(network.requires_grad_(False))


def test_what_is_no_recogniser_is_refused_by_name(tmp_path):
    with pytest.raises(LikenessError, match="no face recogniser at .*none.onnx; put w600k_r50.onnx"):
        load_recogniser(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(LikenessError, match=r"text.onnx is damaged or no ONNX"):
        load_recogniser(tmp_path / "text.onnx")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(LikenessError, match="other.pth is no IResNet"):
        load_recogniser(tmp_path / "other.pth")
    some = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6)).eval()
    with pytest.raises(LikenessError, match=r"map.onnx is no face recogniser that can be used; give w600k"):
        load_recogniser(exported(some, tmp_path / "map.onnx", folded=True))
    state = reference((1, 1, 1, 1)).state_dict()
    del state["layer3.0.bn2.running_mean"]
    torch.save(state, tmp_path / "torn.pth")
    with pytest.raises(LikenessError, match="torn.pth is no IResNet .it has no 'layer3.0.bn2.running_mean'"):
        load_recogniser(tmp_path / "torn.pth")


def test_recognisers_in_half_precision_are_read_too(tmp_path):
    network = reference((1, 1, 1, 1))
    with torch.no_grad():
        expected = network(faces())
    torch.save({name: value.half() for name, value in network.state_dict().items()}, tmp_path / "a.pth")
    model = onnx.load(exported(network, tmp_path / "whole.onnx", folded=True))
    for entry in model.graph.initializer:
        if entry.data_type == onnx.TensorProto.FLOAT:
            halved = onnx.numpy_helper.to_array(entry).astype(np.float16)
            entry.CopyFrom(onnx.numpy_helper.from_array(halved, entry.name))
    onnx.save(model, tmp_path / "a.onnx")
    for path in (tmp_path / "a.pth", tmp_path / "a.onnx"):
        found = torch.cosine_similarity(load_recogniser(path)(faces()), expected)
        assert found.min() > 0.9999


def test_a_pickle_that_would_run_something_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(LikenessError, match="holds more than tensors"):
        load_recogniser(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()
