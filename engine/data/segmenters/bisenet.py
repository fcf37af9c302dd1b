"""BiSeNet for face parsing (Yu et al. 2018), with a ResNet-18 trunk, in the layout of the public weights.

Only the first output head is run: the other two serve training, and their weights are left in the file.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CLASSES = 19


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """ResNet's block of two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet18(nn.Module):
    """Pictures to features at an eighth, a sixteenth and a thirty-second of their size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class RefinementBlock(nn.Module):
    """Features weighted, channel by channel, by what the whole picture shows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))).sigmoid()


class ContextPath(nn.Module):
    """Features at an eighth: fine ones from the trunk, and ones that know the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16, self.arm32 = RefinementBlock(256, 128), RefinementBlock(512, 128)
        self.conv_head32, self.conv_head16 = ConvNorm(128, 128), ConvNorm(128, 128)
        self.conv_avg = ConvNorm(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        eighth, sixteenth, last = self.resnet(x)
        whole = self.conv_avg(last.mean((2, 3), keepdim=True))
        deep = F.interpolate(self.arm32(last) + whole, size=sixteenth.shape[2:], mode="nearest")
        deep = self.arm16(sixteenth) + self.conv_head32(deep)
        return eighth, self.conv_head16(F.interpolate(deep, size=eighth.shape[2:], mode="nearest"))


class Fusion(nn.Module):
    """Both kinds of features joined, then weighted by channel."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.convblk = ConvNorm(width, width, kernel=1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, fine: Tensor, knowing: Tensor) -> Tensor:
        x = self.convblk(torch.cat([fine, knowing], 1))
        weights = self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * weights + x


class Head(nn.Module):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.conv = ConvNorm(width, width)
        self.conv_out = nn.Conv2d(width, _CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Normalised pictures (B, 3, H, W) to logits (B, 19, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.cp, self.ffm, self.conv_out = ContextPath(), Fusion(), Head()

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.conv_out(self.ffm(*self.cp(pixels)))
        return F.interpolate(logits, size=pixels.shape[2:], mode="bilinear", align_corners=True)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> "BiSeNet":
        """Takes the public file's names; its training heads and `module.` prefixes are left out."""
        training_only = ("conv_out16.", "conv_out32.", "cp.resnet.fc.")
        state = {name.removeprefix("module."): weight for name, weight in weights.items()}
        state = {name: weight for name, weight in state.items() if not name.startswith(training_only)}
        net = cls()
        net.load_state_dict(state, strict=True)
        return net.eval().requires_grad_(False)
