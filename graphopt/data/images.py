"""Samples from a folder of images, by a preprocessing specification in TOML::

size = [224, 224]        # height, width (default: the model's)
resize = "crop"          # crop (shorter side, then the centre), stretch, or pad
color = "rgb"            # rgb, bgr or gray
scale = 255.0            # pixels are divided by it first,
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
layout = "nchw"          # nchw or nhwc
input = "pixel_values"   # needed where the model has several inputs
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.data.samples import Sample, Samples
from graphopt.errors import InputError, missing_extra
from graphopt.ir import Graph, TensorType

__all__ = ["Preprocess", "image_samples", "read_preprocess"]

Array = np.ndarray[Any, Any]
_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_CHOICES = {
    "resize": ("crop", "stretch", "pad"),
    "color": ("rgb", "bgr", "gray"),
    "layout": ("nchw", "nhwc"),
}


@dataclass(frozen=True)
class Preprocess:
    """How an image file becomes an input: see the module."""

    size: tuple[int, int] | None = None
    resize: str = "crop"
    color: str = "rgb"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"
    input: str | None = None

    def array(self, path: Path, size: tuple[int, int]) -> Array:
        """The image as an array of one batch entry, f32. Raises InputError for a broken file."""
        try:
            from PIL import Image
        except ImportError:
            raise missing_extra("pillow", "images") from None
        try:
            with Image.open(path) as image:
                picture = image.convert("L" if self.color == "gray" else "RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"cannot read the image '{path}': {error}") from error
        pixels = np.asarray(self._resized(picture, size), np.float32)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        pixels = pixels[:, :, ::-1] if self.color == "bgr" else pixels
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        ready = (pixels / np.float32(self.scale) - mean) / std
        if self.layout == "nchw":
            ready = ready.transpose(2, 0, 1)
        return np.ascontiguousarray(ready[None], np.float32)

    def _resized(self, picture: Any, size: tuple[int, int]) -> Any:
        from PIL import Image, ImageOps

        height, width = size
        how = Image.Resampling.BILINEAR
        if self.resize == "stretch":
            return picture.resize((width, height), how)
        if self.resize == "pad":
            return ImageOps.pad(picture, (width, height), how)
        return ImageOps.fit(picture, (width, height), how)


def read_preprocess(path: str | os.PathLike[str]) -> Preprocess:
    """The specification in a TOML file. Raises InputError naming what is wrong with it."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read '{os.fspath(path)}': {reason}") from error
    known = Preprocess.__dataclass_fields__
    for name, value in found.items():
        if name not in known:
            raise InputError(
                f"'{os.fspath(path)}': there is no setting '{name}' (there are: {', '.join(known)})"
            )
        if name in _CHOICES and value not in _CHOICES[name]:
            raise InputError(
                f"'{os.fspath(path)}': {name} is one of {', '.join(_CHOICES[name])}, not {value!r}"
            )
        if name in ("size", "mean", "std"):
            numbers = value if isinstance(value, list) else [value]
            kind = int if name == "size" else (int, float)
            wrong = not all(isinstance(x, kind) for x in numbers)
            if wrong or (name == "size" and (len(numbers) != 2 or min(numbers) < 1)):
                raise InputError(f"'{os.fspath(path)}': {name} is {value!r}, not a list of numbers")
            found[name] = tuple(numbers)
    if not isinstance(found.get("scale", 1.0), int | float) or not found.get("scale", 1.0):
        raise InputError(f"'{os.fspath(path)}': scale is a number other than 0")
    if 0 in found.get("std", ()):
        raise InputError(f"'{os.fspath(path)}': std holds a 0")
    return Preprocess(**found)


def image_samples(
    folder: Path, graph: Graph, preprocess: str | os.PathLike[str] | None = None
) -> Samples:
    """Images of a folder and its subfolders, whose order of names gives the labels.

    Raises InputError for a folder without images, or images that the model does not take.
    """
    how = Preprocess() if preprocess is None else read_preprocess(preprocess)
    name, size = _target(graph, how)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"the folder '{folder}' holds no images")
    classes = sorted({p.relative_to(folder).parts[0] for p in files if p.parent != folder})
    labels = {group: index for index, group in enumerate(classes)}

    def make() -> Iterator[Sample]:
        for file in files:
            group = file.relative_to(folder).parts[0]
            yield Sample({name: how.array(file, size)}, labels.get(group))

    from graphopt.verify.inputs import fit_inputs

    fit_inputs(graph, {name: how.array(files[0], size)})
    return Samples(make, folder.name, len(files))


def _target(graph: Graph, how: Preprocess) -> tuple[str, tuple[int, int]]:
    """The input that images go to, and the size that it takes."""
    names = [value.name for value in graph.inputs]
    if how.input is None and len(names) != 1:
        raise InputError(f"the model has the inputs {', '.join(names)}: say which one `input` is")
    name = how.input or names[0]
    value = next((v for v in graph.inputs if v.name == name), None)
    if value is None:
        raise InputError(f"the model has no input '{name}' (it has {', '.join(names)})")
    if how.size is not None:
        return name, how.size
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    place = slice(2, 4) if how.layout == "nchw" else slice(1, 3)
    found = [d for d in (shape or ())[place] if isinstance(d, int)]
    if len(found) != 2:
        raise InputError(f"the sizes of input '{name}' are open: give `size` in --preprocess")
    return name, (found[0], found[1])
