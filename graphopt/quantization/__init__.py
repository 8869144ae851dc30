"""Quantization from end to end: calibrate, recover, measure, choose, report.

It uses the mathematics of :mod:`graphopt.compress`, the edits of :mod:`graphopt.passes`, and our
own kernels to run what it tries; so it stands above all of them. Its public name is
:func:`graphopt.compress.quantize`.
"""

from graphopt.quantization.api import Quantized, quantize
from graphopt.quantization.config import QuantizeConfig

__all__ = ["QuantizeConfig", "Quantized", "quantize"]
