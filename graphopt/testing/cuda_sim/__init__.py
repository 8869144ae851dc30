"""Running CUDA artifacts on a machine without a GPU, for tests.

The CUDA text that an artifact ships is compiled by the host's C++ compiler over a shim that plays
blocks, threads, barriers, warp collectives, asynchronous copies and tensor cores
(:class:`Simulator`). :meth:`Simulator.replay` runs an artifact launch by launch with each buffer
against a guard page; :attr:`Simulator.library` is a stand-in for ``libcuda.so.1`` that the real
launcher loads.
"""

from graphopt.testing.cuda_sim.simulator import KernelFault, Simulator

__all__ = ["KernelFault", "Simulator"]
