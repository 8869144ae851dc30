"""Classic networks written out as torch modules, and the initialisation that keeps them alive.

VGG: arXiv:1409.1556. DenseNet: arXiv:1608.06993. SE-ResNet: arXiv:1709.01507.
EfficientNet-Lite: arXiv:1905.11946 without gates, with ReLU6 (module names follow the published
weights).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def randomize(model: nn.Module, run: Callable[[], object]) -> nn.Module:
    """Give a fresh module weights that behave as trained ones do, and set it to evaluation mode.

    Convolutions and linear layers start from He's initialisation. One run over real-looking images
    then sets, layer by layer, the statistics of every batch normalisation from what arrives there,
    each off by a random factor, with random scale and shift: folding them wrongly shows, and no
    activation explodes or vanishes.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(_settle) for norm in norms]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return model


def _settle(norm: nn.BatchNorm2d, args: tuple[torch.Tensor]) -> None:
    (x,) = args
    channels = norm.num_features
    variance = x.var((0, 2, 3)) * torch.empty(channels).uniform_(0.8, 1.3) + 1e-3
    norm.running_var.copy_(variance)
    norm.running_mean.copy_(x.mean((0, 2, 3)) + 0.1 * variance.sqrt() * torch.randn(channels))
    # A positive shift leaves most units on, as in a trained net. Around zero, half of them flip
    # and fifty layers amplify rounding twentyfold: the net, not the compiler, would be measured.
    nn.init.uniform_(norm.weight, 0.4, 1.1)
    nn.init.normal_(norm.bias, mean=0.4, std=0.2)


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions in five stages, then three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(repeats):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 1000),
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits [n, 1000] of images [n, 3, 224, 224]."""
        return self.head(self.features(pixel_values))


class _DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, self.body(x)), dim=1)


class DenseNet121(nn.Module):
    """Four dense blocks of 6, 12, 24 and 16 layers with growth 32."""

    def __init__(self, growth: int = 32) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        for i, depth in enumerate((6, 12, 24, 16)):
            if i:
                layers += [
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
                channels //= 2
            for _ in range(depth):
                layers.append(_DenseLayer(channels, growth))
                channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1000)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits [n, 1000] of images [n, 3, 224, 224]."""
        return self.head(self.features(pixel_values))


class _SeBottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(out, out // 16, 1),
            nn.ReLU(),
            nn.Conv2d(out // 16, out, 1),
            nn.Sigmoid(),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return torch.relu(y * self.gate(y) + self.shortcut(x))


class SeResNet50(nn.Module):
    """ResNet-50 whose every block ends in a squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        ]
        channels = 64
        for i, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            for j in range(depth):
                layers.append(_SeBottleneck(channels, width, 2 if i and not j else 1))
                channels = 4 * width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1000)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits [n, 1000] of images [n, 3, 224, 224]."""
        return self.head(self.features(pixel_values))


class _SameConv2d(nn.Conv2d):
    """TensorFlow's SAME padding for sizes that the stride divides: the odd pixel goes last."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(cin, cout, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(self.pads):
            x = nn.functional.pad(x, self.pads)
        return super().forward(x)


class _MbConv(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = cin * expand
        if expand != 1:
            self._expand_conv = nn.Conv2d(cin, mid, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(mid, eps=1e-3)
        self._depthwise_conv = _SameConv2d(mid, mid, kernel, stride, groups=mid)
        self._bn1 = nn.BatchNorm2d(mid, eps=1e-3)
        self._project_conv = nn.Conv2d(mid, cout, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(cout, eps=1e-3)
        self.expands = expand != 1
        self.skips = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        if self.expands:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """Sixteen inverted bottlenecks without gates, ReLU6, SAME padding."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        stages = (  # width, repeats, kernel, stride, expansion
            (16, 1, 3, 1, 1),
            (24, 2, 3, 2, 6),
            (40, 2, 5, 2, 6),
            (80, 3, 3, 2, 6),
            (112, 3, 5, 1, 6),
            (192, 4, 5, 2, 6),
            (320, 1, 3, 1, 6),
        )
        blocks: list[nn.Module] = []
        channels = 32
        for width, repeats, kernel, stride, expand in stages:
            for i in range(repeats):
                blocks.append(_MbConv(channels, width, kernel, 1 if i else stride, expand))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits [n, 1000] of images [n, 3, 224, 224]."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))
