"""Traps in feature maps: padding and constants, groups, pooling, residual streams, concat necks, dead layers."""

from __future__ import annotations

import pytest

from .toolkit import Trap, s_

CHAIN = {"W1": (6, 3, 3, 3), "b1": (6,), "W2": (2, 6, 3, 3), "b2": (2,)}
MAP = "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
SAME = "<pads=[1,1,1,1]>"

TRAPS = [
    Trap(
        "zero_channels_leave",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN, {"W1": s_[[1, 4]], "b1": s_[[1, 4]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "unread_channels_leave_however_random",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Exp(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN, {"W2": s_[:, [0, 5]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "constants_into_unpadded_conv_fold_into_bias",
        "(double[N,3,6,6] x) => (double[N,2,4,4] y)"
        "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Sigmoid(a)  y = Conv(r, W2, b2) }",
        CHAIN, {"W1": s_[[1, 4]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "constants_into_padded_conv_need_one_carrier",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Sigmoid(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN, {"W1": s_[[1, 4, 5]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "constants_into_auto_pad",
        MAP + "{ a = Conv<auto_pad=\"SAME_UPPER\">(x, W1, b1)  r = Sigmoid(a)"
        "  y = Conv<auto_pad=\"SAME_LOWER\">(r, W2, b2) }",
        CHAIN, {"W1": s_[[1, 4, 5]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "consumer_without_bias_gets_one",
        "(double[N,3,6,6] x) => (double[N,2,4,4] y)"
        "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Relu(a)  y = Conv(r, W2) }",
        {k: v for k, v in CHAIN.items() if k != "b2"} | {"b1": [1.0, 2, 3, 4, 5, 6]}, {"W1": s_[[1, 4]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)}, extra=2,
    ),
    Trap(
        "residual_with_one_constant_side",
        "(double[N,6,5,5] x) => (double[N,2,5,5] y)"
        "{ a = Conv(x, W0)  f = Conv<pads=[1,1,1,1]>(a, W1, b1)  s = Add(f, a)  y = Conv(s, W2) }",
        {"W0": (6, 6, 1, 1), "W1": (6, 6, 3, 3), "b1": (6,), "W2": (2, 6, 1, 1)}, {"W1": s_[[0, 2]], "b1": s_[2]},
    ),
    Trap(
        "residual_dies_only_together",
        "(double[N,6,5,5] x) => (double[N,2,5,5] y)"
        "{ a = Conv(x, W0)  f = Conv<pads=[1,1,1,1]>(a, W1, b1)  s = Add(f, a)  y = Conv(s, W2) }",
        {"W0": (6, 6, 1, 1), "W1": (6, 6, 3, 3), "b1": (6,), "W2": (2, 6, 1, 1)},
        {"W0": s_[[0, 2, 5]], "W1": s_[[0, 2, 3]], "b1": s_[[0, 2, 3]]},
        {"W0": (4, 6, 1, 1), "W1": (4, 4, 3, 3), "b1": (4,), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "branch_that_adds_nothing_goes_with_its_add",
        "(double[N,6,5,5] x) => (double[N,2,5,5] y)"
        "{ a = Conv(x, W0)  f = Conv<pads=[1,1,1,1]>(a, W1)  r = Relu(f)  g = Conv(r, W3)  s = Add(g, a)  y = Conv(s, W2) }",
        {"W0": (6, 6, 1, 1), "W1": (4, 6, 3, 3), "W3": (6, 4, 1, 1), "W2": (2, 6, 1, 1)}, {"W3": s_[:]},
        {"W1": (), "W3": ()}, no_ops="Add Relu",
    ),
    Trap(
        "dead_layer_in_a_chain",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN, {"W1": s_[:], "b1": s_[:]}, None,
    ),
    Trap(
        "dead_layer_of_constants_in_a_chain",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN, {"W1": s_[:]}, None,
    ),
    Trap(
        "dead_layer_before_concat",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  b = Conv(x, W2)  c = Concat<axis=-3>(a, b)  y = Conv(c, W3) }",
        {"W1": (4, 3, 1, 1), "W2": (5, 3, 1, 1), "W3": (2, 9, 1, 1)}, {"W1": s_[:]},
        {"W1": (), "W3": (2, 5, 1, 1)}, no_ops="Concat",
    ),
    Trap(
        "dead_layer_feeding_an_output",
        "(double[N,3,6,6] x) => (double[N,6,6,6] a, double[N,2,6,6] y)"
        "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN, {"W1": s_[:], "b1": s_[:]},
    ),
    Trap("all_weights_zero", MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
         CHAIN, dict.fromkeys(CHAIN, s_[:])),
    Trap(
        "channel_count_one_is_pinned",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, W2) }",
        {"W1": (1, 3, 3, 3), "W2": (2, 1, 3, 3)}, {}, {}, kept=True,
    ),
    Trap(
        "average_pool_with_padding_of_a_constant",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1, b1)  p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a)"
        "  y = Conv(p, W2) }",
        {"W1": (6, 3, 1, 1), "b1": (6,), "W2": (2, 6, 1, 1)}, {"W1": s_[[1, 2]]},
    ),
    Trap(
        "average_pool_without_padding_in_the_count_keeps_constants",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1, b1)  p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)  y = Conv(p, W2) }",
        {"W1": (6, 3, 1, 1), "b1": (6,), "W2": (2, 6, 1, 1)}, {"W1": s_[[1, 2]]},
        {"W1": (4, 3, 1, 1), "b1": (4,), "W2": (2, 4, 1, 1)}, extra=2,
    ),
    Trap(
        "max_pool_pads_with_minus_infinity_not_zero",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1, b1)  p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)  y = Conv(p, W2, b2) }",
        {"W1": (6, 3, 1, 1), "b1": [-1.0, -2, -3, -4, -5, -6], "W2": (2, 6, 1, 1), "b2": (2,)}, {"W1": s_[[1, 2]]},
        {"W1": (4, 3, 1, 1), "b1": (4,), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "max_pool_indices_count_channels",
        "(double[N,3,6,6] x) => (double[N,2,3,3] y, int64[N,4,3,3] i)"
        "{ a = Conv(x, W1)  p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  y = Conv(p, W2) }",
        {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)}, {"W2": s_[:, 1]}, None,
    ),
    Trap(
        "pad_adds_channels",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  p = Pad(a, pads)  y = Conv(p, W2) }",
        {"W1": (4, 3, 1, 1), "W2": (2, 7, 1, 1), "pads": [0, 1, 0, 0, 0, 2, 0, 0]}, {"W1": s_[1]},
        {"W1": (3, 3, 1, 1), "W2": (2, 3, 1, 1)}, no_ops="Pad",
    ),
    Trap(
        "pad_adds_channels_with_a_value",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  p = Pad(a, pads, v)  y = Conv(p, W2, b2) }",
        {"W1": (4, 3, 1, 1), "W2": (2, 7, 1, 1), "b2": (2,), "pads": [0, 1, 0, 0, 0, 2, 0, 0], "v": 0.5},
        {"W1": s_[1]}, None,
    ),
    Trap(
        "pad_channels_and_positions_of_unknown_extent",
        "(double[N,3,T,6] x) => (double[N,2,S,7] y)"
        "{ a = Conv(x, W1)  p = Pad(a, pads)  y = Conv(p, W2) }",
        {"W1": (4, 3, 1, 1), "W2": (2, 7, 3, 3), "pads": [0, 1, 2, 1, 0, 2, 1, 2]}, {"W1": s_[1]},
        {"W1": (3, 3, 1, 1), "W2": (2, 3, 3, 3)},
    ),
    Trap(
        "pad_spatially_with_a_value_of_a_zero_channel",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  p = Pad(a, pads, v)  y = Conv(p, W2) }",
        {"W1": (4, 3, 1, 1), "W2": (2, 4, 3, 3), "pads": [0, 0, 1, 1, 0, 0, 1, 1], "v": 0.5}, {"W1": s_[1]},
    ),
    Trap(
        "resize_keeps_constants",
        "(double[N,3,4,4] x) => (double[N,2,8,8] y)"
        "{ a = Conv(x, W1, b1)  u = Resize<mode=\"linear\">(a, , scales)  y = Conv(u, W2, b2) }",
        {"W1": (6, 3, 1, 1), "b1": (6,), "W2": (2, 6, 1, 1), "b2": (2,),
         "scales": __import__("numpy").array([1, 1, 2, 2], "float32")},
        {"W1": s_[[1, 2]]}, {"W1": (4, 3, 1, 1), "b1": (4,), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "grouped_conv_one_block_dead",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  g = Conv<group=3, pads=[1,1,1,1]>(a, W1)  r = Relu(g)  y = Conv(r, W2) }",
        {"W0": (6, 4, 1, 1), "W1": (6, 2, 3, 3), "W2": (2, 6, 1, 1)}, {"W1": s_[[2, 3]]},
        {"W0": (4, 4, 1, 1), "W1": (4, 2, 3, 3), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "grouped_conv_unequal_blocks_stay_balanced",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  g = Conv<group=2, pads=[1,1,1,1]>(a, W1)  r = Relu(g)  y = Conv(r, W2) }",
        {"W0": (6, 4, 1, 1), "W1": (6, 3, 3, 3), "W2": (2, 6, 1, 1)}, {"W1": s_[[0, 1, 3]]},
        {"W0": (6, 4, 1, 1), "W1": (4, 3, 3, 3), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "grouped_conv_inputs_shrink_in_step",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  g = Conv<group=2, pads=[1,1,1,1]>(a, W1)  r = Relu(g)  y = Conv(r, W2) }",
        {"W0": (6, 4, 1, 1), "W1": (6, 3, 3, 3), "W2": (2, 6, 1, 1)}, {"W0": s_[[0, 5]]},
        {"W0": (4, 4, 1, 1), "W1": (6, 2, 3, 3)},
    ),
    Trap(
        "gate_behind_a_grouped_conv",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  g = Conv<group=2, pads=[1,1,1,1]>(a, W1, b1)  m = Mul(g, gate)  y = Conv(m, W2) }",
        {"W0": (6, 4, 1, 1), "W1": (6, 3, 3, 3), "b1": (6,), "gate": (1, 6, 1, 1), "W2": (2, 6, 1, 1)},
        {"gate": s_[:, [0, 4]], "W0": s_[[1, 3]]},
        {"W0": (4, 4, 1, 1), "W1": (4, 2, 3, 3), "b1": (4,), "W2": (2, 4, 1, 1), "gate": ()},
        no_ops="Mul",
    ),
    Trap(
        "gate_behind_a_grouped_conv_one_block_dead",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  g = Conv<group=2, pads=[1,1,1,1]>(a, W1, b1)  m = Mul(g, gate)  y = Conv(m, W2) }",
        {"W0": (6, 4, 1, 1), "W1": (6, 3, 3, 3), "b1": (6,), "gate": (1, 6, 1, 1), "W2": (2, 6, 1, 1)},
        {"gate": s_[:, 3:]},
        {"W0": (3, 4, 1, 1), "W1": (3, 3, 3, 3), "b1": (3,), "W2": (2, 3, 1, 1), "gate": ()},
        no_ops="Mul",
    ),
    Trap(
        "depthwise_pair",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  r = Relu(a)  g = Conv<group=6, pads=[1,1,1,1]>(r, W1, b1)  y = Conv(g, W2) }",
        {"W0": (6, 4, 1, 1), "W1": (6, 1, 3, 3), "b1": (6,), "W2": (2, 6, 1, 1)},
        {"W0": s_[[0, 5]], "b1": s_[[0, 5]], "W1": s_[3], "W2": s_[:, 1]},
        {"W0": (2, 4, 1, 1), "W1": (2, 1, 3, 3), "b1": (2,), "W2": (2, 2, 1, 1)}, extra=2,
    ),
    Trap(
        "depthwise_multiplier_two",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W0)  g = Conv<group=4, pads=[1,1,1,1]>(a, W1)  r = Relu(g)  y = Conv(r, W2) }",
        {"W0": (4, 4, 1, 1), "W1": (8, 1, 3, 3), "W2": (2, 8, 1, 1)}, {"W1": s_[[2, 3, 4]]},
        {"W0": (3, 4, 1, 1), "W1": (6, 1, 3, 3), "W2": (2, 6, 1, 1)},
    ),
    Trap(
        "conv_transpose_groups",
        "(double[N,4,4,4] x) => (double[N,2,8,8] y)"
        "{ a = Conv(x, W0)  g = ConvTranspose<group=2, strides=[2,2]>(a, W1)  r = Relu(g)  y = Conv(r, W2) }",
        {"W0": (4, 4, 1, 1), "W1": (4, 3, 2, 2), "W2": (2, 6, 1, 1)},
        {"W0": s_[[0, 3]], "W1": s_[:, 1]},
        {"W0": (2, 4, 1, 1), "W1": (2, 2, 2, 2), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "conv_transpose_constant_borders",
        "(double[N,4,4,4] x) => (double[N,2,9,9] y)"
        "{ a = Conv(x, W0, b0)  y = ConvTranspose<strides=[2,2]>(a, W1) }",
        {"W0": (4, 4, 1, 1), "b0": (4,), "W1": (4, 2, 3, 3)}, {"W0": s_[[0, 3]]},
    ),
    Trap(
        "prelu_with_shared_slope",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = PRelu(a, slope)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN | {"slope": (1, 1, 1)}, {"W1": s_[[1, 4]], "b1": s_[[1, 4]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "prelu_with_a_slope_per_channel",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = PRelu(a, slope)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN | {"slope": (6, 1, 1)}, {"W1": s_[[1, 4]], "b1": s_[[1, 4]]},
        {"W1": (4, 3, 3, 3), "b1": (4,), "W2": (2, 4, 3, 3), "slope": (4, 1, 1)},
    ),
    Trap(
        "slope_shared_by_two_layers_with_different_masks",
        MAP + "{ a = Conv(x, W1)  r = PRelu(a, slope)  b = Conv(r, W2)  s = PRelu(b, slope)  y = Conv(s, W3) }",
        {"W1": (6, 3, 1, 1), "W2": (6, 6, 1, 1), "W3": (2, 6, 1, 1), "slope": (6, 1, 1)},
        {"W1": s_[[0, 1]], "W2": s_[[4, 5]]},
        {"W1": (4, 3, 1, 1), "W2": (4, 4, 1, 1), "W3": (2, 4, 1, 1), "slope": (8,)},
    ),
    Trap(
        "clip_turns_zero_into_non_zero",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = Clip(a, lo, hi)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
        CHAIN | {"lo": 0.25, "hi": 6.0}, {"W1": s_[[1, 4]], "b1": s_[[1, 4]]},
        {"W1": (5, 3, 3, 3), "b1": (5,), "W2": (2, 5, 3, 3)},
    ),
    *[
        Trap(
            f"{op.lower()}_of_zero_is_not_zero",
            MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1, b1)  r = " + op + "(a)  y = Conv<pads=[1,1,1,1]>(r, W2, b2) }",
            CHAIN, {"W1": s_[[1, 4]], "b1": s_[[1, 4]]},
            {"W1": (5, 3, 3, 3), "b1": (5,), "W2": (2, 5, 3, 3)},
        )
        for op in ("Sigmoid", "Exp", "Cos", "HardSigmoid", "Softplus")
    ],
    Trap(
        "gate_before_batchnorm_leaves_constants",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1)  g = Mul(a, gate)  n = BatchNormalization(g, s, b, m, var)  r = Relu(n)"
        "  y = Conv<pads=[1,1,1,1]>(r, W2) }",
        {"W1": (6, 3, 3, 3), "gate": [[[1.0]], [[0]], [[1]], [[0]], [[0]], [[1]]], "s": (6,), "b": [1.0] * 6, "m": (6,),
         "var": (6,), "W2": (2, 6, 3, 3)}, {"b": s_[1], "m": s_[1]},
        None, no_ops="Mul",
    ),
    Trap(
        "gate_after_relu_folds",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1)  r = Relu(a)  g = Mul(gate, r)  y = Conv<pads=[1,1,1,1]>(g, W2) }",
        {"W1": (6, 3, 3, 3), "gate": [[[1.0]], [[0]], [[-0.5]], [[0]], [[2]], [[1]]], "W2": (2, 6, 3, 3)}, {},
        {"W1": (4, 3, 3, 3), "W2": (2, 4, 3, 3), "gate": ()}, no_ops="Mul",
    ),
    Trap(
        "batchnorm_zero_scale",
        MAP + "{ a = Conv<pads=[1,1,1,1]>(x, W1)  n = BatchNormalization(a, s, b, m, var)  r = Relu(n)"
        "  y = Conv<pads=[1,1,1,1]>(r, W2) }",
        {"W1": (6, 3, 3, 3), "s": (6,), "b": (6,), "m": (6,), "var": (6,), "W2": (2, 6, 3, 3)},
        {"s": s_[[1, 2]], "b": s_[[1, 2]]},
        {"W1": (4, 3, 3, 3), "s": (4,), "b": (4,), "m": (4,), "var": (4,), "W2": (2, 4, 3, 3)},
    ),
    Trap(
        "squeeze_and_excitation",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  p = GlobalAveragePool(a)  q = Conv(p, W2, b2)  r = Relu(q)  s = Conv(r, W3, b3)"
        "  g = Sigmoid(s)  m = Mul(a, g)  y = Conv(m, W4) }",
        {"W1": (6, 3, 1, 1), "W2": (4, 6, 1, 1), "b2": (4,), "W3": (6, 4, 1, 1), "b3": (6,), "W4": (2, 6, 1, 1)},
        {"W1": s_[[0, 2]], "W2": s_[1], "b2": s_[1]},
        {"W1": (4, 3, 1, 1), "W2": (3, 4, 1, 1), "b2": (3,), "W3": (4, 3, 1, 1), "b3": (4,), "W4": (2, 4, 1, 1)},
    ),
    Trap(
        "channel_shuffle",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  r = Reshape(a, split)  t = Transpose<perm=[0,2,1,3,4]>(r)  u = Reshape(t, merge)  y = Conv(u, W2) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1), "split": [0, 2, 3, 6, 6], "merge": [0, -1, 6, 6]}, {"W1": s_[[1, 4]]},
        {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "slice_across_concat_pieces",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  b = Conv(x, W2)  c = Concat<axis=1>(a, b)  s = Slice(c, from, to, axes)  y = Conv(s, W3) }",
        {"W1": (4, 3, 1, 1), "W2": (4, 3, 1, 1), "W3": (2, 4, 1, 1), "from": [2], "to": [6], "axes": [1]},
        {"W1": s_[3], "W2": s_[1]}, {"W1": (1, 3, 1, 1), "W2": (1, 3, 1, 1), "W3": (2, 2, 1, 1)},
    ),
    Trap(
        "split_into_unequal_pieces",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y, double[N,2,6,6] z)"
        "{ a = Conv(x, W1)  p, q, r = Split<axis=-3>(a, sizes)  y = Conv(p, W2)  s = Concat<axis=1>(r, q)  z = Conv(s, W3) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 1, 1, 1), "W3": (2, 5, 1, 1), "sizes": [1, 3, 2]}, {"W1": s_[[1, 2, 5]]},
        {"W1": (3, 3, 1, 1), "W3": (2, 2, 1, 1)},
    ),
    Trap(
        "one_piece_of_a_split_dead",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  p, q = Split<axis=1>(a, sizes)  u = Conv(p, W2)  v = Conv(q, W3)  y = Add(u, v) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 2, 1, 1), "W3": (2, 4, 1, 1), "sizes": [2, 4]}, {"W1": s_[:2]},
        {"W1": (4, 3, 1, 1), "W2": ()}, no_ops="Split Add",
    ),
    Trap(
        "depth_to_space_blocks",
        "(double[N,3,4,4] x) => (double[N,2,8,8] y)"
        "{ a = Conv(x, W1)  d = DepthToSpace<blocksize=2, mode=\"CRD\">(a)  y = Conv(d, W2) }",
        {"W1": (12, 3, 1, 1), "W2": (2, 3, 1, 1)}, {"W1": s_[4:8]}, {"W1": (8, 3, 1, 1), "W2": (2, 2, 1, 1)},
    ),
    Trap(
        "depth_to_space_dcr_partial_block_stays",
        "(double[N,3,4,4] x) => (double[N,2,8,8] y)"
        "{ a = Conv(x, W1)  d = DepthToSpace<blocksize=2>(a)  y = Conv(d, W2) }",
        {"W1": (12, 3, 1, 1), "W2": (2, 3, 1, 1)}, {"W1": s_[[1, 4, 7, 10, 0]]}, {"W1": (8, 3, 1, 1), "W2": (2, 2, 1, 1)},
    ),
    Trap(
        "group_norm_pins_its_groups",
        "(double[N,3,4,4] x) => (double[N,2,4,4] y)"
        "{ a = Conv(x, W1)  g = GroupNormalization<num_groups=2>(a, s, b)  y = Conv(g, W2) }",
        {"W1": (6, 3, 1, 1), "s": (6,), "b": (6,), "W2": (2, 6, 1, 1)}, {"W1": s_[1], "s": s_[0], "b": s_[0]}, None, opset=21,
    ),
    Trap(
        "instance_norm_of_zero_is_its_bias",
        "(double[N,3,4,4] x) => (double[N,2,4,4] y)"
        "{ a = Conv(x, W1)  g = InstanceNormalization(a, s, b)  y = Conv(g, W2) }",
        {"W1": (6, 3, 1, 1), "s": (6,), "b": (6,), "W2": (2, 6, 1, 1)}, {"W1": s_[1]},
        {"W1": (5, 3, 1, 1), "s": (5,), "b": (5,), "W2": (2, 5, 1, 1)}, extra=2,
    ),
    Trap(
        "flatten_spreads_a_channel_over_features",
        "(double[N,3,2,2] x) => (double[N,2] y)"
        "{ a = Conv(x, W1)  r = Relu(a)  f = Flatten(r)  y = Gemm<transB=1>(f, W2, b2) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 24), "b2": (2,)}, {"W1": s_[[1, 3]]}, {"W1": (4, 3, 1, 1), "W2": (2, 16)},
    ),
    Trap(
        "unread_pixels_do_not_free_a_channel",
        "(double[N,3,2,2] x) => (double[N,2] y)"
        "{ a = Conv(x, W1)  r = Relu(a)  f = Flatten(r)  y = Gemm<transB=1>(f, W2, b2) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 24), "b2": (2,)}, {"W2": s_[:, [4, 5, 6, 8, 9, 10, 11]]},
        {"W1": (5, 3, 1, 1), "W2": (2, 20)},
    ),
    Trap(
        "same_initializer_in_two_layers_with_different_masks",
        "(double[N,4,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W)  g = Mul(a, g1)  b = Conv(g, W)  h = Mul(b, g2)  y = Conv(h, W3) }",
        {"W": (4, 4, 1, 1), "W3": (2, 4, 1, 1), "g1": [[[1.0]], [[0]], [[1]], [[1]]], "g2": [[[1.0]], [[1]], [[1]], [[0]]]},
        {}, None, no_ops="Mul",
    ),
    Trap(
        "multiplying_by_a_dead_channel",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  b = Conv(x, W2)  m = Mul(a, b)  y = Conv(m, W3) }",
        {"W1": (6, 3, 1, 1), "W2": (6, 3, 1, 1), "W3": (2, 6, 1, 1)}, {"W1": s_[[0, 1]], "W2": s_[[1, 2]]},
        {"W1": (3, 3, 1, 1), "W2": (3, 3, 1, 1), "W3": (2, 3, 1, 1)},
    ),
    Trap(
        "dividing_a_dead_channel",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  b = Conv(x, W2)  e = Exp(b)  m = Div(a, e)  y = Conv(m, W3) }",
        {"W1": (6, 3, 1, 1), "W2": (6, 3, 1, 1), "W3": (2, 6, 1, 1)}, {"W1": s_[[0, 1]]},
    ),
    Trap(
        "weight_standardisation_folds",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ m = ReduceMean<axes=[1,2,3]>(W1)  c = Sub(W1, m)  q = Mul(c, c)  v = ReduceMean<axes=[1,2,3]>(q)  e = Add(v, eps)"
        "  s = Sqrt(e)  w = Div(c, s)  a = Conv(x, w)  y = Conv(a, W2) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1), "eps": 1e-5}, {"W1": s_[[0, 1]]},
        {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)}, no_ops="ReduceMean Sub",
    ),
    Trap(
        "weight_that_is_also_an_output",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y, double[6,3,1,1] W1)"
        "{ a = Conv(x, W1)  r = Relu(a)  y = Conv(r, W2) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1)}, {"W1": s_[[0, 1]]},
    ),
    Trap(
        "identity_chains_and_dropout",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ i = Identity(W1)  j = Identity(i)  a = Conv(x, j)  d = Dropout(a)  k = Identity(d)  r = Relu(k)  y = Conv(r, W2) }",
        {"W1": (6, 3, 1, 1), "W2": (2, 6, 1, 1)}, {"W1": s_[[0, 1]]}, {"W1": (4, 3, 1, 1), "W2": (2, 4, 1, 1)},
    ),
    Trap(
        "selective_kernels",
        "(double[N,3,6,6] x) => (double[N,2,6,6] y)"
        "{ a = Conv(x, W1)  b = Conv<pads=[1,1,1,1]>(x, W2)  s = Add(a, b)  p = GlobalAveragePool(s)  z = Conv(p, W3)"
        "  l = Conv(z, W4)  m = Reshape(l, pair)  w = Softmax<axis=1>(m)  u, v = Split<axis=1>(w, ones)"
        "  us = Squeeze(u, one)  vs = Squeeze(v, one)  ua = Mul(us, a)  vb = Mul(vs, b)  t = Add(ua, vb)  y = Conv(t, W5) }",
        {"W1": (6, 3, 1, 1), "W2": (6, 3, 3, 3), "W3": (4, 6, 1, 1), "W4": (12, 4, 1, 1), "W5": (2, 6, 1, 1),
         "pair": [-1, 2, 6, 1, 1], "ones": [1, 1], "one": [1]},
        {"W1": s_[[0, 5]], "W2": s_[[0, 5]]},
        {"W1": (4, 3, 1, 1), "W2": (4, 3, 3, 3), "W3": (4, 4, 1, 1), "W4": (8, 4, 1, 1), "W5": (2, 4, 1, 1)},
    ),
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_trap(trap: Trap) -> None:
    trap.check()
