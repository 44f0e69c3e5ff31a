# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Triton kernels of stacked dense networks: launched by `gpu.DenseKernels`. Imported only where Triton is installed.

Everything is feature-major, ``(features, rows)``, as in `networks`: rows lie side by side, so that loads are
wide whatever the width of the network, and the layers' outputs stand one behind the other in one buffer that
later layers read. Sizes and places come from small tables of integers on the device, not from the code:
one compiled kernel serves every depth, and compiles in a second, because its loops are not unrolled.

The columns of those tables are the fields of `Product`, `Category` and `Item` in `gpu_layout`.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Length of a row of the tables.
TABLE_WIDTH = tl.constexpr(16)
# Entry in `back` for a feature without a gradient.
NOWHERE = tl.constexpr(-(2**30))

SWISH, RELU, SELU = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
IDENTITY, SIGMOID, SOFTMAX = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
BINARY, CROSS, SQUARED, ABSOLUTE, HUBER = (tl.constexpr(i) for i in range(5))

_SELU_SCALE = tl.constexpr(1.0507009873554805)
_SELU_ALPHA = tl.constexpr(1.6732632423543772)

# Otherwise Triton would compile another kernel for the value 1 and for multiples of 16.
_COUNTS = (
    "n_rows", "n_features", "n_continuous", "n_categorical", "n_hidden", "n_targets", "n_columns",
    "n_tiles", "n_views", "n_used",
)  # fmt: skip


@triton.jit
def _read_inputs(
    x, row, valid, member, flat, mean, scale, columns, categories,
    n_features, n_continuous, n_categorical, features, stride,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Standardise the continuous columns and embed the others, into the first columns of `features`."""
    lane = tl.arange(0, T)
    for start in range(0, n_continuous, BK):
        k = start + tl.arange(0, BK)
        inside = k < n_continuous
        column = tl.load(columns + k, mask=inside, other=0)
        both = inside[:, None] & valid[None, :]
        value = tl.load(x + row[None, :] * n_features + column[:, None], mask=both, other=0.0)
        centre = tl.load(mean + member * n_continuous + k, mask=inside, other=0.0)
        width = tl.load(scale + member * n_continuous + k, mask=inside, other=1.0)
        value = tl.div_rn(value - centre[:, None], tl.broadcast_to(width[:, None], (BK, T)))
        tl.store(features + k[:, None] * stride + lane[None, :], value, mask=inside[:, None])
    n = tl.arange(0, BN)
    for i in range(n_categorical):
        entry = categories + i * TABLE_WIDTH
        n_categories = tl.load(entry + 1)
        size = tl.load(entry + 2)
        table = flat + tl.load(entry + 3) + member * n_categories * size
        code = tl.load(x + row * n_features + tl.load(entry), mask=valid, other=-1.0).to(tl.int32)
        known = (code >= 0) & (code < n_categories)
        inside = n < size
        vector = tl.load(
            table + code[None, :] * size + n[:, None],
            mask=inside[:, None] & known[None, :],
            other=0.0,
        )
        to = features + (tl.load(entry + 4) + n[:, None]) * stride + lane[None, :]
        tl.store(to, vector, mask=inside[:, None])


@triton.jit
def _product(
    source, stride, packed, entry,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Multiply the columns that an entry reads by its matrix: ``(BN, T)``, the first rows are used."""
    n_out = tl.load(entry)
    n_in = tl.load(entry + 1)
    n = tl.arange(0, BN)
    lane = tl.arange(0, T)
    # Rows of a matrix begin at multiples of 32 numbers, so that loads are wide.
    length = (n_in + 31) // 32 * 32
    matrix = packed + tl.multiple_of(tl.load(entry + 2), 32) + n[:, None] * length
    source += tl.load(entry + 4) * stride
    out = tl.zeros((BN, T), dtype=tl.float32)
    for start in range(0, n_in, BK):
        k = start + tl.arange(0, BK)
        w = tl.load(matrix + k[None, :], mask=(n < n_out)[:, None], other=0.0)
        f = tl.load(
            source + k[:, None] * stride + lane[None, :], mask=(k < n_in)[:, None], other=0.0
        )
        out = tl.dot(w, f, out, input_precision=PRECISION)
    return out


@triton.jit
def _layer(
    features, stride, flat, packed, entry, member,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Multiply and add one layer."""
    n = tl.arange(0, BN)
    n_out = tl.load(entry)
    bias = tl.load(flat + tl.load(entry + 3) + member * n_out + n, mask=n < n_out, other=0.0)
    return _product(features, stride, packed, entry, T, BN, BK, PRECISION) + bias[:, None]


@triton.jit
def _activate(z, ACTIVATION: tl.constexpr):
    """Return the activation and its derivative."""
    if ACTIVATION == SWISH:
        s = tl.sigmoid(z)
        h = z * s
        d = s + h * (1.0 - s)
    elif ACTIVATION == RELU:
        h = tl.maximum(z, 0.0)
        d = tl.where(z > 0.0, 1.0, 0.0)
    else:
        low = _SELU_SCALE * _SELU_ALPHA * tl.exp(tl.minimum(z, 0.0))
        h = tl.where(z > 0.0, _SELU_SCALE * z, low - _SELU_SCALE * _SELU_ALPHA)
        d = tl.where(z > 0.0, _SELU_SCALE, low)
    return h, d


@triton.jit
def _forward(
    features, stride, flat, packed, table, member, n_hidden, row, seed, kept_share,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, KEEP: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Run all layers; return the raw outputs ``(BN, T)``. KEEP stores the derivatives in the columns of the gradients.

    With DROPOUT, the share `kept_share` of the features is kept; which ones depends on `seed` and `row` only.
    """
    n = tl.arange(0, BN)
    lane = tl.arange(0, T)
    for i in range(n_hidden):
        tl.debug_barrier()  # the columns that this layer reads have been written by other threads
        entry = table + i * TABLE_WIDTH
        z = _layer(features, stride, flat, packed, entry, member, T, BN, BK, PRECISION)
        h, d = _activate(z, ACTIVATION)
        if DROPOUT:
            drawn = tl.rand(seed, (row[None, :] * n_hidden + i) * BN + n[:, None])
            kept = tl.where(drawn < kept_share, 1.0 / kept_share, 0.0)
            h *= kept
            d *= kept
        inside = (n < tl.load(entry))[:, None]
        place = n[:, None] * stride + lane[None, :]
        tl.store(features + tl.load(entry + 5) * stride + place, h, mask=inside)
        if KEEP:
            tl.store(features + tl.load(entry + 6) * stride + place, d, mask=inside)
    tl.debug_barrier()
    entry = table + n_hidden * TABLE_WIDTH
    return _layer(features, stride, flat, packed, entry, member, T, BN, BK, PRECISION)


@triton.jit
def _loss(out, y, row, valid, n_out, BN: tl.constexpr, LOSS: tl.constexpr):
    """Return the loss of every row and its gradient with respect to the outputs."""
    n = tl.arange(0, BN)[:, None]
    inside = n < n_out
    if LOSS == CROSS:
        code = tl.load(y + row, mask=valid, other=0).to(tl.int32)
        z = tl.where(inside, out, float("-inf"))
        top = tl.max(z, 0)
        e = tl.exp(z - top[None, :])
        total = tl.sum(e, 0)
        chosen = n == code[None, :]
        loss = tl.log(total) + top - tl.sum(tl.where(chosen, out, 0.0), 0)
        grad = e / total[None, :] - tl.where(chosen, 1.0, 0.0)
    else:
        target = tl.load(y + row[None, :] * n_out + n, mask=inside & valid[None, :], other=0)
        target = target.to(tl.float32)
        apart = out - target
        size = tl.abs(apart)
        if LOSS == BINARY:
            each = tl.maximum(out, 0.0) - out * target + tl.log(1.0 + tl.exp(-tl.abs(out)))
            d_loss = tl.sigmoid(out) - target
        elif LOSS == SQUARED:
            each = apart * apart
            d_loss = 2.0 * apart
        elif LOSS == ABSOLUTE:
            each = size
            d_loss = tl.where(apart > 0.0, 1.0, tl.where(apart < 0.0, -1.0, 0.0))
        else:
            each = tl.where(size < 1.0, 0.5 * apart * apart, size - 0.5)
            d_loss = tl.minimum(tl.maximum(apart, -1.0), 1.0)
        loss = tl.sum(tl.where(inside, each, 0.0), 0) / n_out
        grad = d_loss / n_out
    return loss, tl.where(inside, grad, 0.0)


@triton.jit
def _backward(
    work, stride, packed, table, n_hidden, n_targets,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of all layers, from the last one to the embeddings.

    The gradients of the layers that read a layer lie next to each other in memory, so that the backward pass is the
    same kind of product as the forward pass. Gradients of the continuous inputs are not needed and not computed.
    """
    n = tl.arange(0, BN)
    lane = tl.arange(0, T)
    for i in range(n_targets):
        tl.debug_barrier()  # the gradients of later layers have been written by other threads
        entry = table + (n_hidden + 1 + i) * TABLE_WIDTH
        total = _product(work, stride, packed, entry, T, BN, BK, PRECISION)
        place = work + (tl.load(entry + 6) + n[:, None]) * stride + lane[None, :]
        inside = (n < tl.load(entry))[:, None]
        d = tl.load(place, mask=inside & (i < n_hidden), other=1.0)
        tl.store(place, total * d, mask=inside)


@triton.jit(do_not_specialize=_COUNTS)
def forward_backward(
    x, y, share, position, flat, packed, mean, scale, columns, categories, table,
    seeds, kept_shares, work, tile_losses, n_packed,
    n_rows, n_features, n_continuous, n_categorical, n_hidden, n_targets, stride, n_columns,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACTIVATION: tl.constexpr,
    LOSS: tl.constexpr, PRECISION: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Features of all layers, gradients before their activations and losses, of one tile of rows."""
    tile = tl.program_id(0)
    member = tl.program_id(1)
    step = tl.load(position)
    if (tile == 0) & (member == 0):
        # `update` reads this copy, as one of its programs increases `position` while others still run.
        tl.store(position + 1, step)
    first = (step * tl.num_programs(1) + member) * n_rows
    row = tile * T + tl.arange(0, T)
    valid = row < n_rows
    features = work + member.to(tl.int64) * n_columns * stride + tile * T

    _read_inputs(
        x + first * n_features, row, valid, member, flat, mean, scale, columns, categories,
        n_features, n_continuous, n_categorical, features, stride, T, BN, BK,
    )  # fmt: skip
    packed += member * n_packed
    seed = tl.load(position + 2) + step
    kept_share = 1.0
    if DROPOUT:
        seed += tl.load(seeds + member)
        kept_share = tl.load(kept_shares + member)
    out = _forward(
        features, stride, flat, packed, table, member, n_hidden, row, seed, kept_share,
        T, BN, BK, ACTIVATION, PRECISION, True, DROPOUT,
    )  # fmt: skip

    entry = table + n_hidden * TABLE_WIDTH
    n_out = tl.load(entry)
    per_row = 1 if LOSS == CROSS else n_out
    loss, grad = _loss(out, y + first * per_row, row, valid, n_out, BN, LOSS)
    part = tl.load(share + first + row, mask=valid, other=0.0)
    tl.store(tile_losses + member * tl.num_programs(0) + tile, tl.sum(loss * part, 0))
    n = tl.arange(0, BN)
    place = (tl.load(entry + 6) + n[:, None]) * stride + tl.arange(0, T)[None, :]
    tl.store(features + place, grad * part[None, :], mask=(n < n_out)[:, None])
    _backward(features, stride, packed, table, n_hidden, n_targets, T, BN, BK, PRECISION)


@triton.jit
def _adam(
    at, inside, grad, flat, mean, square, rates, beta2, rest2, eps, weight_decay,
    DECOUPLED: tl.constexpr,
):  # fmt: skip
    """Update the parameters at some places and return them."""
    size = tl.load(rates)
    rest1 = tl.load(rates + 1)
    correction = tl.load(rates + 2)
    p = tl.load(flat + at, mask=inside, other=0.0)
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(square + at, mask=inside, other=0.0)
    if DECOUPLED:
        p = p * (1.0 - tl.load(rates + 3) * weight_decay)
    else:
        grad = grad + weight_decay * p
    m += rest1 * (grad - m)
    v = beta2 * v + rest2 * grad * grad
    p -= size * m / (tl.sqrt(v * correction) + eps)
    tl.store(flat + at, p, mask=inside)
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)
    return p


@triton.jit
def _gradient(
    work, stride, codes, n_rows, n_features, items, n, k, is_bias,
    BN: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum the products of gradients and features over all rows, one block of rows after the other."""
    is_out = n < tl.load(items)
    is_weight = k < tl.load(items + 1)
    grad = tl.load(items + 4)
    source = tl.load(items + 5)
    looks_up = tl.load(items + 6) >= 0
    total = tl.zeros((BN, BK), dtype=tl.float32)
    for start in range(0, stride, BR):
        r = start + tl.arange(0, BR)
        g = tl.load(
            work + (grad + n[:, None]) * stride + r[None, :],
            mask=is_out[:, None] & (r < stride)[None, :] & (not looks_up),
            other=0.0,
        )
        code = tl.load(codes + r * n_features, mask=(r < n_rows) & looks_up, other=-1.0)
        g = tl.where((code.to(tl.int32)[None, :] == n[:, None]) & looks_up, 1.0, g)
        f = tl.load(
            work + (source + k[:, None]) * stride + r[None, :],
            mask=is_weight[:, None] & (r < stride)[None, :],
            other=0.0,
        )
        # A bias is the weight of a feature that is always one.
        f = tl.where(is_bias[:, None], 1.0, f)
        total = tl.dot(g, tl.trans(f), total, input_precision=PRECISION)
    return total


@triton.jit
def _copy(p, inside, items, n, k, n_in, is_layer, back, packed):
    """Copy updated weights into the packed matrices of the forward and the backward pass."""
    length = (n_in + 31) // 32 * 32
    to = packed + tl.load(items + 9) + n[:, None] * length + k[None, :]
    tl.store(to, p, mask=inside & is_layer)
    to_back = tl.load(back + tl.load(items + 5) + k, mask=(k < n_in) & is_layer, other=NOWHERE)
    to = packed + (to_back + tl.load(items + 4))[None, :] + n[:, None]
    tl.store(to, p, mask=inside & (to_back > NOWHERE)[None, :])


@triton.jit(do_not_specialize=_COUNTS)
def update(
    x, position, work, items, back, flat, packed, mean, square, rates,
    tile_losses, losses,
    n_rows, n_features, stride, n_columns, n_packed, n_tiles,
    beta2, rest2, eps, weight_decay,
    BN: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, PRECISION: tl.constexpr,
    ADAM: tl.constexpr, DECOUPLED: tl.constexpr,
):  # fmt: skip
    """Gradient of one block of weights over all rows, in a fixed order, and its update.

    Without ADAM the gradient goes to `mean` and nothing else changes.
    """
    item = tl.program_id(0)
    member = tl.program_id(1)
    n_members = tl.num_programs(1)
    step = tl.load(position + 1)
    items += item * TABLE_WIDTH
    n_out = tl.load(items)
    n_in = tl.load(items + 1)
    bias = tl.load(items + 3)
    column = tl.load(items + 6)
    n = tl.load(items + 7) + tl.arange(0, BN)
    k = tl.load(items + 8) + tl.arange(0, BK)
    is_out = n < n_out
    is_weight = k < n_in
    is_bias = (k == n_in) & (bias >= 0)
    work += member.to(tl.int64) * n_columns * stride
    codes = x + (step * n_members + member) * n_rows * n_features + column

    total = _gradient(
        work, stride, codes, n_rows, n_features, items, n, k, is_bias, BN, BK, BR, PRECISION
    )
    bias_total = tl.sum(tl.where(is_bias[None, :], total, 0.0), 1)
    bias_at = bias + member * n_out + n
    bias_inside = is_out & (bias >= 0) & (n_in - tl.load(items + 8) < BK)
    at = tl.load(items + 2) + member * n_out * n_in + n[:, None] * n_in + k[None, :]
    inside = is_out[:, None] & is_weight[None, :]
    if ADAM:
        rates += step * 4
        _adam(
            bias_at, bias_inside, bias_total, flat, mean, square, rates,
            beta2, rest2, eps, weight_decay, DECOUPLED,
        )  # fmt: skip
        p = _adam(
            at, inside, total, flat, mean, square, rates, beta2, rest2, eps, weight_decay, DECOUPLED
        )  # fmt: skip
        _copy(p, inside, items, n, k, n_in, column < 0, back, packed + member * n_packed)
        if item == 0:
            lost = 0.0
            for tile in range(n_tiles):
                lost += tl.load(tile_losses + member * n_tiles + tile)
            tl.store(losses + step * n_members + member, lost)
            if member == 0:
                tl.store(position, step + 1)
    else:
        tl.store(mean + at, total, mask=inside)
        tl.store(mean + bias_at, bias_total, mask=bias_inside)


@triton.jit(do_not_specialize=_COUNTS)
def predict_mean(
    x, out, used, weights, flat, packed, mean, scale, columns, categories, table, features,
    n_packed,
    n_views, n_rows, n_used, n_tiles,
    n_features, n_continuous, n_categorical, n_hidden, n_columns,
    T: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACTIVATION: tl.constexpr,
    LINK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weighted mean over members and plain mean over views, tile after tile of rows."""
    program = tl.program_id(0)
    features += program.to(tl.int64) * n_columns * T
    n = tl.arange(0, BN)
    entry = table + n_hidden * TABLE_WIDTH
    n_out = tl.load(entry)
    inside = (n < n_out)[:, None]
    for tile in range(program, n_tiles, tl.num_programs(0)):
        row = tile * T + tl.arange(0, T)
        valid = row < n_rows
        total = tl.zeros((BN, T), dtype=tl.float32)
        for view in range(n_views):
            rows_of_view = x + (tl.cast(view, tl.int64) * n_rows + tile * T) * n_features
            for i in range(n_used):
                member = tl.load(used + i)
                tl.debug_barrier()  # other threads have read the features of the previous member
                _read_inputs(
                    rows_of_view, tl.arange(0, T), valid, member, flat, mean, scale, columns,
                    categories, n_features, n_continuous, n_categorical, features, T, T, BN, BK,
                )  # fmt: skip
                z = _forward(
                    features, T, flat, packed + member * n_packed, table, member, n_hidden, row, 0, 1.0,
                    T, BN, BK, ACTIVATION, PRECISION, False, False,
                )  # fmt: skip
                if LINK == SIGMOID:
                    z = tl.sigmoid(z)
                elif LINK == SOFTMAX:
                    z = tl.where(inside, z, float("-inf"))
                    e = tl.exp(z - tl.max(z, 0)[None, :])
                    z = e / tl.sum(e, 0)[None, :]
                total += tl.load(weights + i) * z
        place = row.to(tl.int64)[None, :] * n_out + n[:, None]
        tl.store(out + place, total / n_views, mask=inside & valid[None, :])
