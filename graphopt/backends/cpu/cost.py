"""What kernels are predicted to cost: multiply-adds, bytes from memory, and handing out work.

One model for every choice of the lowering: a kernel takes its multiply-adds at the rate of its
tile, its operands at the bandwidth of memory, and a fork and join. Numbers are of a typical machine
and not of the compiling one, so that an artifact does not depend on where it was made; what is only
known when a model runs (cache sizes, threads, sizes that vary) decides about tiles and shares in
``csrc/kernels/gemm/blocking.cpp``, by the same terms. ``graphopt.tuning`` measures what this
predicts.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Dim

__all__ = ["TYPICAL", "Cost", "Machine", "direct", "known", "product", "winograd"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What predictions are for: ``rate`` multiply-adds a second a core, ``bandwidth`` bytes a
    second of all cores, ``fork`` seconds to hand out work and wait for it; the tile of the product
    kernel, and how many multiply-adds of a vector are under way at once."""

    cores: int
    rate: float
    bandwidth: float
    fork: float
    tile_rows: tuple[int, ...]
    lanes: int
    chains: int


# Two cores with 512-bit vectors; rows of tiles of 1, 2, 3 and 4 panels.
TYPICAL = Machine(2, 75e9, 25e9, 1e-6, (12, 12, 9, 6), 16, 8)

# Multiply-adds that take as long as the transform of one value at one Winograd point, and how much
# slower the products of few rows are.
_PER_TRANSFORM = 5.0
_FEW_ROWS = 1.2
_FLOAT = 4
_SHORT_SUM = 192
# Sizes that only the run knows are taken for these.
_USUAL = {"batch": 1, "spatial": 32, "rows": 128}


def known(dim: Dim, kind: str) -> int:
    """A size as a number: itself, or what is usual for a batch, a spatial axis or rows."""
    return dim if isinstance(dim, int) else _USUAL[kind]


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-adds (of all cores), bytes that come from memory, and forks."""

    macs: float
    nbytes: float
    forks: int = 1

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.nbytes + other.nbytes, self.forks + other.forks)

    def seconds(self, machine: Machine = TYPICAL) -> float:
        """The predicted time. Bytes and multiply-adds add up: weights are read just before use."""
        compute = self.macs / (machine.cores * machine.rate)
        return compute + self.nbytes / machine.bandwidth + self.forks * machine.fork


def direct(batch: int, height: int, width: int, cin: int, cout: int) -> Cost:
    """A 3 x 3 convolution of stride one as a plain sum, for an output of that size."""
    return Cost(9.0 * batch * height * width * cin * cout, 9.0 * _FLOAT * cin * cout)


def winograd(batch: int, height: int, width: int, cin: int, cout: int) -> Cost:
    """The same as F(4 x 4, 3 x 3): tiles to 36 points, 36 products, and back."""
    tiles = batch * -(-height // 4) * -(-width // 4)
    products = 36.0 * tiles * _FEW_ROWS * cin * cout
    transforms = 36.0 * tiles * _PER_TRANSFORM * (cin + cout)
    return Cost(products + transforms, 36.0 * _FLOAT * cin * cout, 3)


def product(
    rows: int,
    columns: int,
    depth: int,
    *,
    panels: int = 0,
    split: str = "",
    machine: Machine = TYPICAL,
) -> Cost:
    """A product with packed weights on tiles of ``panels`` panels (0: what the kernel takes), its
    rows or its columns split among the cores (default: whatever costs less).

    A tile does a multiply-add a vector and cycle, or a load if it has few of them; one with fewer
    than ``chains`` waits for its own results. Each core reads its rows and its columns of weights.
    """
    panels = panels or default_panels(rows, depth, machine)
    splits = [split] if split else ["rows", "columns"]
    return min(
        (_split_product(rows, columns, depth, panels, s, machine) for s in splits),
        key=lambda cost: cost.seconds(machine),
    )


def default_panels(rows: int, depth: int, machine: Machine = TYPICAL) -> int:
    """Panels of the kernel's tile: the widest that holds all rows, else two for short sums and the
    most for others."""
    held = [i + 1 for i, most in enumerate(machine.tile_rows) if rows <= most]
    if held:
        return held[-1]
    return 2 if depth < _SHORT_SUM else len(machine.tile_rows)


def _split_product(
    rows: int, columns: int, depth: int, panels: int, split: str, machine: Machine
) -> Cost:
    mine = -(-rows // machine.cores) if split == "rows" else rows
    width = -(-columns // machine.lanes)
    width = -(-width // machine.cores) if split == "columns" else width
    tiles = -(-mine // machine.tile_rows[panels - 1])
    height = mine / tiles
    across = -(-width // panels)
    cycles = tiles * across * depth * max(height * panels, height + panels, machine.chains)
    weights = _FLOAT * depth * columns * (machine.cores if split == "rows" else 1)
    return Cost(cycles * machine.lanes * machine.cores, float(weights))
