"""Benchmarks of graphopt beside its peers, and the zoo of real models that they run."""
