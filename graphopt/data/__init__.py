"""Data to calibrate and to judge with: samples from files, and scores with their confidence."""

from graphopt.data.metrics import METRICS, Interval, Metric, drop_interval, find_metric
from graphopt.data.overlap import refuse_overlap
from graphopt.data.samples import Sample, Samples, from_arrays, load_samples, split

__all__ = [
    "METRICS",
    "Interval",
    "Metric",
    "Sample",
    "Samples",
    "drop_interval",
    "find_metric",
    "from_arrays",
    "load_samples",
    "refuse_overlap",
    "split",
]
