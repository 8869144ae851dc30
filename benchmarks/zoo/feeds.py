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
    if item.kind == "audio":
        return _audio(shape, rng).astype(dtype)
    if item.kind == "noise":
        return rng.standard_normal(shape).astype(dtype)
    if item.kind == "zeros":
        return np.zeros(shape, dtype)
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
    """Byte values 0..255 with 256 (the padding token) at the end of each half, as Magika pads."""
    values = rng.integers(0, 256, shape)
    half = shape[-1] // 2
    for row in values:
        used = int(rng.integers(64, half + 1))
        row[used:half] = 256
        row[half : half + half - used] = 256
    return values
