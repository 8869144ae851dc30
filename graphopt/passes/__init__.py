"""The pass library: one pass a file. ``TABLE`` finds passes by name, lazily."""

from __future__ import annotations

from graphopt.rewrite import PassTable, Pipeline

__all__ = ["TABLE", "parse_pipeline"]

TABLE = PassTable(
    {
        "cancel-quantize": "graphopt.passes.cancel_quantize:CancelQuantize",
        "cancel-reshapes": "graphopt.passes.cancel_reshapes:CancelReshapes",
        "compose-products": "graphopt.passes.compose_products:ComposeProducts",
        "decompose": "graphopt.passes.decompose:Decompose",
        "decompose-einsum": "graphopt.passes.decompose_einsum:DecomposeEinsum",
        "drop-expands": "graphopt.passes.drop_expands:DropExpands",
        "eliminate-dead": "graphopt.passes.eliminate_dead:EliminateDead",
        "fold-affine": "graphopt.passes.fold_affine:FoldAffine",
        "fold-constants": "graphopt.passes.fold_constants:FoldConstants",
        "fold-shapes": "graphopt.passes.fold_shapes:FoldShapes",
        "fold-pads": "graphopt.passes.fold_pads:FoldPads",
        "fuse-attention": "graphopt.passes.fuse_attention:FuseAttention",
        "fuse-contrib": "graphopt.passes.fuse_contrib:FuseContrib",
        "fuse-activation": "graphopt.passes.fuse_activation:FuseActivation",
        "fuse-gemm": "graphopt.passes.fuse_gemm:FuseGemm",
        "fuse-instance-norm": "graphopt.passes.fuse_instance_norm:FuseInstanceNorm",
        "fuse-embedding": "graphopt.passes.fuse_embedding:FuseEmbedding",
        "fuse-layer-norm": "graphopt.passes.fuse_layer_norm:FuseLayerNorm",
        "fuse-recurrent": "graphopt.passes.fuse_recurrent:FuseRecurrent",
        "fuse-lp-norm": "graphopt.passes.fuse_lp_norm:FuseLpNorm",
        "fuse-rotary": "graphopt.passes.fuse_rotary:FuseRotary",
        "fuse-scan": "graphopt.passes.fuse_scan:FuseScan",
        "fuse-softmax": "graphopt.passes.fuse_softmax:FuseSoftmax",
        "hoist-invariants": "graphopt.passes.hoist_invariants:HoistInvariants",
        "hoist-scales": "graphopt.passes.hoist_scales:HoistScales",
        "inline-if": "graphopt.passes.inline_if:InlineIf",
        "lossy-quantize": "graphopt.passes.lossy.lossy_quantize:LossyQuantize",
        "lossy-quantize-weights": (
            "graphopt.passes.lossy.lossy_quantize_weights:LossyQuantizeWeights"
        ),
        "lossy-replace-head": "graphopt.passes.lossy.lossy_replace_head:LossyReplaceHead",
        "lossy-replace-max-pool": (
            "graphopt.passes.lossy.lossy_replace_max_pool:LossyReplaceMaxPool"
        ),
        "lossy-replace-relu": "graphopt.passes.lossy.lossy_replace_relu:LossyReplaceRelu",
        "merge-affine": "graphopt.passes.merge_affine:MergeAffine",
        "migrate-scales": "graphopt.passes.migrate_scales:MigrateScales",
        "inline-loop": "graphopt.passes.inline_loop:InlineLoop",
        "merge-branches": "graphopt.passes.merge_branches:MergeBranches",
        "merge-common": "graphopt.passes.merge_common:MergeCommon",
        "merge-pads": "graphopt.passes.merge_pads:MergePads",
        "merge-products": "graphopt.passes.merge_products:MergeProducts",
        "merge-reductions": "graphopt.passes.merge_reductions:MergeReductions",
        "merge-reshapes": "graphopt.passes.merge_reshapes:MergeReshapes",
        "merge-weights": "graphopt.passes.merge_weights:MergeWeights",
        "merge-slices": "graphopt.passes.merge_slices:MergeSlices",
        "simplify-arithmetic": "graphopt.passes.simplify_arithmetic:SimplifyArithmetic",
        "reorder-pools": "graphopt.passes.reorder_pools:ReorderPools",
        "replace-average-pools": "graphopt.passes.replace_average_pools:ReplaceAveragePools",
        "simplify-indices": "graphopt.passes.simplify_indices:SimplifyIndices",
        "simplify": "graphopt.passes.simplify:Simplify",
        "simplify-activations": "graphopt.passes.simplify_activations:SimplifyActivations",
        "simplify-pools": "graphopt.passes.simplify_pools:SimplifyPools",
        "specialize-if": "graphopt.passes.specialize_if:SpecializeIf",
        "sink-scales": "graphopt.passes.sink_scales:SinkScales",
        "split-slices": "graphopt.passes.split_slices:SplitSlices",
        "sink-transposes": "graphopt.passes.sink_transposes:SinkTransposes",
        "trim-outputs": "graphopt.passes.trim_outputs:TrimOutputs",
        "trim-regions": "graphopt.passes.trim_regions:TrimRegions",
    }
)


def parse_pipeline(spec: str) -> Pipeline:
    """The pipeline that a text such as ``fold-constants,simplify{...}`` describes."""
    return TABLE.parse(spec)
