"""Seeded inputs of the right kind for every model of the zoo. numpy only."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from benchmarks.zoo.catalog import Input, get

Array = np.ndarray[Any, np.dtype[Any]]


def inputs(name: str, seed: int = 0, case: int = 0) -> dict[str, Array]:
    """A feed for model ``name``: arrays by input name, equal for equal arguments.

    Raises KeyError for an unknown model and IndexError for a case that it does not have.
    """
    model = get(name)
    shapes = model.shapes(case)
    bound = model.cases[case]
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed, case])
    return {item.name: _array(item, shapes[item.name], bound, rng) for item in model.inputs}


def _array(item: Input, shape: tuple[int, ...], bound: Any, rng: np.random.Generator) -> Array:
    dtype = np.dtype(item.dtype)
    if item.kind == "image":
        return _image(shape, rng).astype(dtype)
    if item.kind == "page":
        return _page(shape, rng).astype(dtype)
    if item.kind == "audio":
        return _audio(shape, rng).astype(dtype)
    if item.kind == "noise":
        return rng.standard_normal(shape).astype(dtype)
    if item.kind == "tokens":
        return rng.integers(0, item.high, shape, dtype=dtype)
    if item.kind == "mask":
        return _mask(shape, rng).astype(dtype)
    if item.kind == "bytes":
        return _file_bytes(shape, rng).astype(dtype)
    if item.kind == "value":
        return np.asarray(bound[item.name], dtype)
    raise ValueError(f"input {item.name!r} has the unknown kind {item.kind!r}")


def _image(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Smooth blotches plus fine noise, about zero mean and unit variance, as a normalised photo.

    White noise alone averages out in a convolution net, so that every input gives nearly the same
    output; the low frequencies keep outputs apart.
    """
    *batch, height, width = shape
    coarse = rng.standard_normal((*batch, 9, 9))
    rows = np.linspace(0, 8, height)
    cols = np.linspace(0, 8, width)
    smooth = _lerp(_lerp(coarse, rows, axis=-2), cols, axis=-1)
    return 1.2 * smooth + 0.4 * rng.standard_normal(shape)


def _lerp(values: Array, at: Array, axis: int) -> Array:
    low = np.minimum(at.astype(int), values.shape[axis] - 2)
    weight = at - low
    if axis == -2:
        weight = weight[:, None]
    first = np.take(values, low, axis=axis)
    second = np.take(values, low + 1, axis=axis)
    return first * (1 - weight) + second * weight


def _audio(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A few harmonics over noise in [-1, 1], so that a voice detector has something to decide."""
    batch, samples = shape
    time = np.arange(samples) / 16000
    pitch = rng.uniform(90, 260, (batch, 1))
    voice = sum(np.sin(2 * np.pi * pitch * k * time + k) / k for k in range(1, 6))
    return np.clip(0.25 * voice + 0.05 * rng.standard_normal(shape), -1, 1)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Ones, then padding zeros from a random position in the second half of each row."""
    batch, length = shape
    kept = rng.integers(length // 2 + 1, length + 1, batch)
    return np.arange(length)[None, :] < kept[:, None]


def _file_bytes(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Rows of bytes with 256, the padding token, at the inner end of each half, as Magika pads.

    A row is markup, source text or noise by turns: noise alone is one file type to the model.
    """
    values = np.full(shape, 256)
    half = shape[-1] // 2
    for row in values:
        used = int(rng.integers(64, half + 1))
        style = rng.integers(0, len(_SNIPPETS) + 1)
        if style == len(_SNIPPETS):
            content = rng.integers(0, 256, used)
        else:
            content = np.resize(np.frombuffer(_SNIPPETS[style], np.uint8), used)
            at = rng.integers(0, used, used // 50)
            content[at] = rng.integers(97, 123, at.size)
        row[:used] = content
        row[-used:] = content
    return values


_SNIPPETS = (
    b"<html><body><p class='x'>Hello, world.</p><a href='#'>more</a></body></html>\n",
    b"def area(width, height):\n    if width < 0:\n        raise ValueError\n    return width\n",
    b'#include <stdio.h>\nint main(void) {\n  printf("%d", 3);\n  return 0;\n}\n',
)

_GLYPHS = {  # 5 columns x 7 rows, a row an int of 5 bits
    "A": (14, 17, 17, 31, 17, 17, 17),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "2": (14, 17, 1, 6, 8, 16, 31),
    "7": (31, 1, 2, 4, 8, 8, 8),
}


def _page(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Lines of dark bitmap text on light paper with a little grain, in [-1, 1] or just past it."""
    *batch, channels, height, width = shape
    pages = np.full((*batch, height, width), 0.8)
    scale = max(1, min(5, height // 10))
    for page in pages.reshape(-1, height, width):
        for top in range(scale, height - 8 * scale, 14 * scale):
            line = _line(width // (6 * scale) - 1, rng)
            ink = np.kron(line, np.ones((scale, scale)))
            page[top : top + ink.shape[0], scale : scale + ink.shape[1]] -= 1.5 * ink
    grain = 0.05 * rng.standard_normal(shape)
    return np.repeat(pages[..., None, :, :], channels, axis=-3) + grain


def _line(length: int, rng: np.random.Generator) -> Array:
    """One random word after another as a bitmap of 7 rows and 6 columns a character."""
    letters = list(_GLYPHS)
    line = np.zeros((7, 6 * length))
    for i in range(length):
        if rng.random() < 0.15:
            continue
        for row, bits in enumerate(_GLYPHS[letters[rng.integers(len(letters))]]):
            line[row, 6 * i : 6 * i + 5] = [bits >> (4 - k) & 1 for k in range(5)]
    return line
