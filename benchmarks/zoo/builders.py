"""How each exported model of the zoo is made: a torch module with fixed weights.

A builder takes the files of the model's pip package (empty for random weights) and returns a
module in evaluation mode. Random weights come from ``torch.manual_seed(0)``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.zoo import networks


class Logits(nn.Module):
    """A classifier of the transformers library that takes and gives plain tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        return self.model(pixel_values=pixel_values).logits


class Encoder(nn.Module):
    """A BERT-like encoder that takes and gives plain tensors."""

    def __init__(self, model: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.model = model
        self.pooled = pooled

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [batch, sequence, width] and, when asked for, the pooled vector."""
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        if self.pooled:
            return out.last_hidden_state, out.pooler_output
        return out.last_hidden_state


def efficientnet_lite0(files: list[Path]) -> nn.Module:
    """EfficientNet-Lite0 with the trained weights of its package."""
    model = networks.EfficientNetLite0()
    model.load_state_dict(torch.load(files[0], map_location="cpu", weights_only=True))
    return model.eval()


def minilm_l6(files: list[Path]) -> nn.Module:
    """all-MiniLM-L6-v2 with the trained weights of its package; last hidden state only."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(**json.loads(files[0].read_text()))
    model = BertModel(config, add_pooling_layer=False)
    weights = {k: v for k, v in load_file(files[1]).items() if not k.startswith("pooler.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = [k for k in [*missing, *unexpected] if "position_ids" not in k]
    if wrong:
        raise ValueError(f"weights of MiniLM do not fit the module: {wrong[:4]}")
    return Encoder(model.eval(), pooled=False)


def resnet_50(files: list[Path]) -> nn.Module:
    """ResNet-50 (v1.5) of the transformers library."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    return Logits(networks.randomize(model, _images(model)))


def mobilenet_v2(files: list[Path]) -> nn.Module:
    """MobileNetV2, width 1.0, of the transformers library."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(0)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000))
    return Logits(networks.randomize(model, _images(model)))


def bert_base(files: list[Path]) -> nn.Module:
    """BERT-base uncased: hidden states and pooled vector."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return Encoder(_spread(BertModel(BertConfig())), pooled=True)


def vit_b16(files: list[Path]) -> nn.Module:
    """ViT-B/16 at 224 pixels with a 1000-class head."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return Logits(_spread(ViTForImageClassification(ViTConfig(num_labels=1000))))


def vgg_16(files: list[Path]) -> nn.Module:
    """VGG-16, configuration D, without normalisation."""
    torch.manual_seed(0)
    model = networks.Vgg16()
    return networks.randomize(model, _images(model))


def densenet_121(files: list[Path]) -> nn.Module:
    """DenseNet-121, growth 32."""
    torch.manual_seed(0)
    model = networks.DenseNet121()
    return networks.randomize(model, _images(model))


def se_resnet_50(files: list[Path]) -> nn.Module:
    """ResNet-50 with squeeze-and-excitation gates."""
    torch.manual_seed(0)
    model = networks.SeResNet50()
    return networks.randomize(model, _images(model))


def _images(model: nn.Module) -> Callable[[], None]:
    """A calibration run over eight images with low-frequency content."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(8, 3, 9, 9, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    images = smooth + 0.4 * torch.randn(8, 3, 224, 224, generator=generator)
    return lambda: model(images)


def _spread(model: nn.Module) -> nn.Module:
    """Perturb norms and biases of a fresh transformer, which all start at one and zero.

    Left alone they would be no-ops, and a compiler that dropped one would go unnoticed.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    return model.eval()
