"""The passes of the CPU backend by name, for pipelines written as text."""

from __future__ import annotations

from graphopt.rewrite import PassTable

__all__ = ["TABLE"]

TABLE = PassTable(
    {
        "cpu-apply-choices": "graphopt.backends.cpu.apply_choices:ApplyChoices",
        "cpu-fuse-chains": "graphopt.backends.cpu.fuse_chains:FuseChains",
        "cpu-expand-quantized": "graphopt.backends.cpu.expand_quantized:ExpandQuantized",
        "cpu-fuse-epilogue": "graphopt.backends.cpu.fuse_epilogue:FuseEpilogue",
        "cpu-fuse-int8": "graphopt.backends.cpu.fuse_int8:FuseInt8",
        "cpu-fuse-groups": "graphopt.backends.cpu.fuse_groups:FuseGroups",
        "cpu-lower-attention": "graphopt.backends.cpu.lower_attention:LowerAttention",
        "cpu-lower-bf16": "graphopt.backends.cpu.lower_bf16:LowerBf16",
        "cpu-lower-dense": "graphopt.backends.cpu.lower_dense:LowerDense",
        "cpu-lower-int4": "graphopt.backends.cpu.lower_int4:LowerInt4",
        "cpu-lower-int8": "graphopt.backends.cpu.lower_int8:LowerInt8",
        "cpu-lower-lookup": "graphopt.backends.cpu.lower_lookup:LowerLookup",
        "cpu-lower-native": "graphopt.backends.cpu.lower_native:LowerNative",
        "cpu-lower-recurrent": "graphopt.backends.cpu.lower_recurrent:LowerRecurrent",
        "cpu-lower-rotary": "graphopt.backends.cpu.lower_rotary:LowerRotary",
        "cpu-lower-views": "graphopt.backends.cpu.lower_views:LowerViews",
        "cpu-lower-winograd": "graphopt.backends.cpu.lower_winograd:LowerWinograd",
        "cpu-store-bf16": "graphopt.backends.cpu.store_bf16:StoreBf16",
    }
)
