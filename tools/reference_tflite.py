#!/usr/bin/python3
"""Runs a TensorFlow Lite model in NumPy and records what it gives, as a test folder for `sluice verify`.

  reference_tflite.py MODEL.tflite FOLDER [--seed 1] [--sets 2]

Independent of sluice and of TensorFlow: it reads the flatbuffer itself and follows the definition of the operators,
quantised ones in integers: accumulators of 32 bits, scaled by fixed-point multipliers as the TensorFlow Lite
quantisation specification has it. Writes FOLDER/model.tflite, FOLDER/test_data_set_N/input_K.pb and output_K.pb
(TensorProto messages). As a module: Model(bytes).run(inputs)."""
import argparse
import math
import pathlib
import struct

import numpy as np

TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8,
         10: np.float64, 12: np.uint64, 15: np.uint32, 16: np.uint16}
ONNX_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
              "float16": 10, "float64": 11, "uint32": 12, "uint64": 13}


# --- The file.

class Table:
    """A table of a flatbuffer; fields by their number."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.vtable = at - struct.unpack_from("<i", data, at)[0]
        self.vtable_size = struct.unpack_from("<H", data, self.vtable)[0]

    def find(self, field):
        slot = 4 + 2 * field
        offset = struct.unpack_from("<H", self.data, self.vtable + slot)[0] if slot < self.vtable_size else 0
        return self.at + offset if offset else None

    def number(self, field, form, default=0):
        at = self.find(field)
        return default if at is None else struct.unpack_from("<" + form, self.data, at)[0]

    def follow(self, field):
        at = self.find(field)
        return None if at is None else at + struct.unpack_from("<I", self.data, at)[0]

    def table(self, field):
        at = self.follow(field)
        return None if at is None else Table(self.data, at)

    def vector(self, field, dtype):
        at = self.follow(field)
        if at is None:
            return np.zeros(0, dtype)
        count = struct.unpack_from("<I", self.data, at)[0]
        return np.frombuffer(self.data, dtype, count, at + 4)

    def tables(self, field):
        starts = self.vector(field, np.uint32)
        first = (self.follow(field) or 0) + 4
        return [Table(self.data, first + 4 * i + int(offset)) for i, offset in enumerate(starts)]

    def text(self, field):
        return self.vector(field, np.uint8).tobytes().decode()


class Tensor:
    def __init__(self, table, buffers):
        self.shape = [int(d) for d in table.vector(0, np.int32)]
        self.dtype = np.dtype(TYPES[table.number(1, "b")])
        self.name = table.text(3)
        signature = table.vector(7, np.int32)
        self.signature = [int(d) for d in signature] if len(signature) else list(self.shape)
        quantisation = table.table(4)
        self.scales = quantisation.vector(2, np.float32) if quantisation else np.zeros(0, np.float32)
        self.zeros = quantisation.vector(3, np.int64) if quantisation else np.zeros(0, np.int64)
        self.axis = quantisation.number(6, "i") if quantisation else 0
        if len(self.zeros) < len(self.scales):
            self.zeros = np.resize(self.zeros if len(self.zeros) else [0], len(self.scales))
        data = buffers[table.number(2, "I")]
        self.data = np.frombuffer(data.tobytes(), self.dtype).reshape(self.shape) if len(data) else None

    @property
    def is_quantised(self):
        return len(self.scales) > 0 and self.dtype in (np.int8, np.uint8, np.int16)

    @property
    def scale(self):
        return float(self.scales[0])

    @property
    def zero(self):
        return int(self.zeros[0])


# --- Fixed-point arithmetic.

def quantise_multiplier(real):
    """A real number as q * 2^(shift - 31) with q of 31 bits."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    q = int(math.floor(fraction * (1 << 31) + 0.5))
    if q == 1 << 31:
        q, shift = q // 2, shift + 1
    return (0, 0) if shift < -31 else (q, shift)


def multiply_fixed(x, q, shift):
    """x * q * 2^(shift - 31): the high half of the doubled product, rounded, then shifted right, rounded."""
    x = np.asarray(x, np.int64) << np.maximum(shift, 0)
    product = x * np.asarray(q, np.int64)
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    total = product + nudge
    high = np.where(total >= 0, total >> 31, -((-total) >> 31))
    right = np.maximum(-np.asarray(shift), 0).astype(np.int64)
    mask = (np.int64(1) << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> right) + ((high & mask) > threshold)


def rescale(x, reals):
    """Integers times real factors, one or one a channel."""
    pairs = [quantise_multiplier(float(r)) for r in np.atleast_1d(reals)]
    q, shift = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    return multiply_fixed(x, q[0], shift[0]) if len(pairs) == 1 else multiply_fixed(x, q, shift)


def round_away(x):
    return np.where(x >= 0, np.floor(x + 0.5), np.ceil(x - 0.5))


def to_reals(array, tensor):
    if not tensor.is_quantised:
        return array
    shape = [1] * array.ndim
    if len(tensor.scales) > 1:
        shape[tensor.axis] = -1
    else:
        shape = []
    scales, zeros = tensor.scales.astype(np.float64).reshape(shape), tensor.zeros.reshape(shape)
    return ((array.astype(np.float64) - zeros) * scales).astype(np.float32)


def to_stored(real, tensor):
    if not tensor.is_quantised:
        return np.asarray(real).astype(tensor.dtype)
    info = np.iinfo(tensor.dtype)
    q = round_away(np.asarray(real, np.float64) / tensor.scale) + tensor.zero
    return np.clip(q, info.min, info.max).astype(tensor.dtype)


def activation_range(activation):
    return {0: (-np.inf, np.inf), 1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}[activation]


def activate(x, activation):
    if activation == 4:
        return np.tanh(x)
    low, high = activation_range(activation)
    return np.clip(x, low, high)


def clamp_stored(q, tensor, activation):
    """Accumulators with the zero point of the output to its type, within what the activation allows."""
    info = np.iinfo(tensor.dtype)
    low, high = activation_range(activation)
    low = info.min if low == -np.inf else max(info.min, int(round_away(np.float64(low / tensor.scale))) + tensor.zero)
    high = info.max if high == np.inf else min(info.max, int(round_away(np.float64(high / tensor.scale))) + tensor.zero)
    return np.clip(q, low, high).astype(tensor.dtype)


# --- Windows over images, channels last.

def window_places(size, kernel, stride, dilation, is_same):
    """(number of outputs, padding before, padding after)"""
    reach = (kernel - 1) * dilation + 1
    if not is_same:
        return (size - reach) // stride + 1, 0, 0
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + reach - size)
    return out, total // 2, total - total // 2


def each_position(x, kernel, stride, dilation, is_same, fill):
    """Yields (row, column of the kernel, what it sees of x for every output)."""
    rows = window_places(x.shape[1], kernel[0], stride[0], dilation[0], is_same)
    columns = window_places(x.shape[2], kernel[1], stride[1], dilation[1], is_same)
    padded = np.pad(x, [(0, 0), rows[1:], columns[1:], (0, 0)], constant_values=fill)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield i, j, padded[:, top:top + (rows[0] - 1) * stride[0] + 1:stride[0],
                               left:left + (columns[0] - 1) * stride[1] + 1:stride[1]]


def correlate(x, w, stride, dilation, is_same):
    """w: [O, H, W, I / groups]; exact for integers (float64 carries 53 bits)."""
    groups = x.shape[3] // w.shape[3]
    total = 0
    for i, j, seen in each_position(x, w.shape[1:3], stride, dilation, is_same, 0):
        seen = seen.reshape(*seen.shape[:3], groups, w.shape[3])
        part = w[:, i, j].reshape(groups, -1, w.shape[3])
        total = total + np.einsum("nhwgi,goi->nhwgo", seen, part, optimize=True)
    return total.reshape(*total.shape[:3], -1)


def correlate_depthwise(x, w, stride, dilation, is_same):
    """w: [1, H, W, channels * multiplier]"""
    multiplier = w.shape[3] // x.shape[3]
    total = 0
    for i, j, seen in each_position(x, w.shape[1:3], stride, dilation, is_same, 0):
        total = total + np.repeat(seen, multiplier, axis=3) * w[0, i, j]
    return total


def scatter_transposed(x, w, stride, is_same, out_shape):
    """w: [O, H, W, I]"""
    pads = []
    for d in (0, 1):
        size, kernel = out_shape[d + 1], w.shape[d + 1]
        windows = -(-size // stride[d]) if is_same else (size - kernel + stride[d]) // stride[d]
        pads.append(max(0, (windows - 1) * stride[d] + kernel - size) // 2)
    full = np.zeros([x.shape[0], max((x.shape[1] - 1) * stride[0] + w.shape[1], pads[0] + out_shape[1]),
                     max((x.shape[2] - 1) * stride[1] + w.shape[2], pads[1] + out_shape[2]), w.shape[0]])
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            part = np.einsum("nhwi,oi->nhwo", x, w[:, i, j])
            full[:, i:i + (x.shape[1] - 1) * stride[0] + 1:stride[0],
                 j:j + (x.shape[2] - 1) * stride[1] + 1:stride[1]] += part
    return full[:, pads[0]:pads[0] + out_shape[1], pads[1]:pads[1] + out_shape[2]]


def resize_bilinear(x, size, align_corners, half_pixel):
    for axis, out in ((1, size[0]), (2, size[1])):
        length = x.shape[axis]
        scale = (length - 1) / (out - 1) if align_corners and out > 1 else length / out
        place = np.arange(out)
        at = np.maximum((place + 0.5) * scale - 0.5, 0) if half_pixel else place * scale
        low = np.minimum(np.floor(at).astype(int), length - 1)
        high = np.minimum(low + 1, length - 1)
        shape = [1] * 4
        shape[axis] = out
        part = (at - low).reshape(shape)
        x = np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part
    return x


def resize_nearest(x, size, align_corners, half_pixel):
    for axis, out in ((1, size[0]), (2, size[1])):
        length = x.shape[axis]
        scale = (length - 1) / (out - 1) if align_corners and out > 1 else length / out
        at = (np.arange(out) + (0.5 if half_pixel else 0)) * scale
        at = round_away(at) if align_corners else np.floor(at)
        x = np.take(x, np.minimum(at.astype(int), length - 1), axis)
    return x


# --- Operators. Each takes the operator and arrays as stored, and gives a list of arrays.

class Operator:
    def __init__(self, model, table):
        code = model.codes[table.number(0, "I")]
        self.code = max(code.number(0, "b"), code.number(3, "i"))
        self.inputs = [int(i) for i in table.vector(1, np.int32)]
        self.outputs = [int(i) for i in table.vector(2, np.int32)]
        self.options = table.table(4)
        self.tensors = model.tensors

    def option(self, field, form, default=0):
        return default if self.options is None else self.options.number(field, form, default)

    def tensor(self, i):
        return self.tensors[self.inputs[i]] if i < len(self.inputs) and self.inputs[i] >= 0 else None

    def out(self, i=0):
        return self.tensors[self.outputs[i]]


def with_weights(op, x, w, bias, accumulate, activation, x_index=0):
    """What convolutions and fully connected layers share; accumulate(x, w) without zero points."""
    x_tensor, w_tensor, out = op.tensor(x_index), op.tensor(1), op.out()
    if not x_tensor.is_quantised:
        total = accumulate(x.astype(np.float64), to_reals(w, w_tensor).astype(np.float64))
        total = total if bias is None else total + bias
        return [activate(total, activation).astype(np.float32)]
    shape = [1] * w.ndim
    if len(w_tensor.zeros) > 1:
        shape[w_tensor.axis] = -1
    zeros = w_tensor.zeros.reshape(shape) if len(w_tensor.zeros) > 1 else w_tensor.zero
    total = accumulate(x.astype(np.float64) - x_tensor.zero, w.astype(np.float64) - zeros)
    total = np.rint(total).astype(np.int64)
    if bias is not None:
        total = total + bias.astype(np.int64)
    factors = x_tensor.scale * w_tensor.scales.astype(np.float64) / out.scale
    return [clamp_stored(rescale(total, factors) + out.zero, out, activation)]


def conv_2d(op, x, w, bias=None):
    stride, dilation = (op.option(2, "i"), op.option(1, "i")), (op.option(5, "i", 1), op.option(4, "i", 1))
    is_same = op.option(0, "b") == 0
    return with_weights(op, x, w, bias, lambda a, b: correlate(a, b, stride, dilation, is_same), op.option(3, "b"))


def depthwise_conv_2d(op, x, w, bias=None):
    stride, dilation = (op.option(2, "i"), op.option(1, "i")), (op.option(6, "i", 1), op.option(5, "i", 1))
    is_same = op.option(0, "b") == 0
    return with_weights(op, x, w, bias, lambda a, b: correlate_depthwise(a, b, stride, dilation, is_same),
                        op.option(4, "b"))


def transpose_conv(op, shape, w, x, bias=None):
    stride, is_same = (op.option(2, "i"), op.option(1, "i")), op.option(0, "b") == 0
    return with_weights(op, x, w, bias,
                        lambda a, b: scatter_transposed(a, b, stride, is_same, [int(d) for d in shape]),
                        op.option(3, "b"), x_index=2)


def fully_connected(op, x, w, bias=None):
    keeps = op.option(2, "B") != 0
    rows = x if keeps else x.reshape(-1, w.shape[1])
    return with_weights(op, rows, w, bias, lambda a, b: a @ b.T, op.option(0, "b"))


def svdf(op, x, features, time, bias=None, state=None):
    """From a state of zeros."""
    x_tensor, time_tensor, out = op.tensor(0), op.tensor(2), op.out()
    rank, activation = op.option(0, "i"), op.option(1, "b")
    if not x_tensor.is_quantised:
        past = np.zeros((x.shape[0], *time.shape), np.float64)
        past[:, :, -1] = x.astype(np.float64) @ to_reals(features, op.tensor(1)).astype(np.float64).T
        total = (past * to_reals(time, time_tensor)).sum(axis=2).reshape(x.shape[0], -1, rank).sum(axis=2)
        return [activate(total if bias is None else total + bias, activation).astype(np.float32)]
    kept = op.tensor(4)
    product = (x.astype(np.int64) - x_tensor.zero) @ features.astype(np.int64).T
    seen = np.clip(rescale(product, x_tensor.scale * op.tensor(1).scale / kept.scale), -32768, 32767)
    past = np.zeros((x.shape[0], *time.shape), np.int64)
    past[:, :, -1] = seen
    total = (past * time.astype(np.int64)).sum(axis=2).reshape(x.shape[0], -1, rank).sum(axis=2)
    if bias is not None:
        total = total + bias
    return [clamp_stored(rescale(total, kept.scale * time_tensor.scale / out.scale) + out.zero, out, activation)]


def pool_window(op):
    return dict(kernel=(op.option(4, "i"), op.option(3, "i")), stride=(op.option(2, "i"), op.option(1, "i")),
                dilation=(1, 1), is_same=op.option(0, "b") == 0)


def average_pool_2d(op, x):
    total = sum(seen for _, _, seen in each_position(x.astype(np.float64), fill=0, **pool_window(op)))
    count = sum(seen for _, _, seen in each_position(np.ones(x.shape), fill=0, **pool_window(op)))
    if not op.tensor(0).is_quantised:
        return [activate(total / count, op.option(5, "b")).astype(np.float32)]
    total, count = total.astype(np.int64), count.astype(np.int64)
    mean = np.where(total > 0, (total + count // 2) // count, -((-total + count // 2) // count))
    return [clamp_stored(mean, op.out(), op.option(5, "b"))]


def max_pool_2d(op, x):
    wide = x.astype(np.float64)
    best = np.maximum.reduce([seen for _, _, seen in each_position(wide, fill=-np.inf, **pool_window(op))])
    if op.tensor(0).is_quantised:
        return [clamp_stored(best.astype(np.int64), op.out(), op.option(5, "b"))]
    return [activate(best, op.option(5, "b")).astype(np.float32)]


def sum_of(op, a, b, sign):
    x, y, out = op.tensor(0), op.tensor(1), op.out()
    activation = op.option(0, "b")
    if not x.is_quantised:
        return [activate(a + sign * b, activation).astype(a.dtype)]
    largest = 2 * max(x.scale, y.scale)
    left = rescale((a.astype(np.int64) - x.zero) << 20, x.scale / largest)
    right = rescale((b.astype(np.int64) - y.zero) << 20, y.scale / largest)
    total = rescale(left + sign * right, largest / ((1 << 20) * out.scale))
    return [clamp_stored(total + out.zero, out, activation)]


def mul(op, a, b):
    x, y, out = op.tensor(0), op.tensor(1), op.out()
    if not x.is_quantised:
        return [activate(a * b, op.option(0, "b")).astype(a.dtype)]
    product = (a.astype(np.int64) - x.zero) * (b.astype(np.int64) - y.zero)
    return [clamp_stored(rescale(product, x.scale * y.scale / out.scale) + out.zero, out, op.option(0, "b"))]


def by_reals(function, fused_field=None):
    """Quantised numbers through a function of floats, as TFLite's lookup tables do."""
    def run(op, *arrays):
        reals = [to_reals(a, op.tensor(i)) for i, a in enumerate(arrays)]
        result = function(op, *reals)
        if fused_field is not None:
            result = activate(result, op.option(fused_field, "b"))
        return [to_stored(result, op.out())]
    return run


def relu_like(low, high):
    def run(op, x):
        if not op.tensor(0).is_quantised:
            return [np.clip(x, low, high).astype(x.dtype)]
        source, out = op.tensor(0), op.out()
        q = rescale(x.astype(np.int64) - source.zero, source.scale / out.scale) + out.zero
        info = np.iinfo(out.dtype)
        least = max(info.min, out.zero + int(round_away(np.float64(low / out.scale))))
        most = info.max if high == np.inf else min(info.max, out.zero + int(round_away(np.float64(high / out.scale))))
        return [np.clip(q, least, most).astype(out.dtype)]
    return run


def softmax(op, x):
    beta = op.option(0, "f")
    wide = to_reals(x, op.tensor(0)).astype(np.float64) * beta
    e = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return [to_stored(e / e.sum(axis=-1, keepdims=True), op.out())]


def log_softmax(op, x):
    wide = to_reals(x, op.tensor(0)).astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return [to_stored(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), op.out())]


def reduce_by(function):
    def run(op, x, axes):
        real = function(to_reals(x, op.tensor(0)).astype(np.float64 if op.tensor(0).is_quantised or
                        x.dtype == np.float32 else x.dtype), axis=tuple(int(a) for a in np.atleast_1d(axes)),
                        keepdims=op.option(0, "B") != 0)
        return [to_stored(real, op.out())]
    return run


def quantize(op, x):
    source, out = op.tensor(0), op.out()
    if not source.is_quantised:
        return [to_stored(x, out)]
    return [clamp_stored(rescale(x.astype(np.int64) - source.zero, source.scale / out.scale) + out.zero, out, 0)]


def concatenation(op, *parts):
    out = op.out()
    moved = []
    for i, part in enumerate(parts):
        tensor = op.tensor(i)
        same = not out.is_quantised or (tensor.scale == out.scale and tensor.zero == out.zero)
        moved.append(part if same else to_stored(to_reals(part, tensor), out))
    joined = np.concatenate(moved, axis=op.option(0, "i"))
    return [joined if out.is_quantised else activate(joined, op.option(1, "b")).astype(out.dtype)]


def pad(op, x, pads, value=None):
    fill = op.tensor(0).zero if op.tensor(0).is_quantised else 0
    return [np.pad(x, pads.reshape(-1, 2), constant_values=fill if value is None else value.reshape(-1)[0])]


def mirror_pad(op, x, pads):
    return [np.pad(x, pads.reshape(-1, 2), mode="symmetric" if op.option(0, "b") == 1 else "reflect")]


def reshape(op, x, shape=None):
    target = shape if shape is not None else op.options.vector(0, np.int32)
    return [x.reshape([int(d) for d in target])]


def squeeze(op, x):
    axes = tuple(int(a) for a in op.options.vector(0, np.int32)) if op.options else ()
    return [np.squeeze(x, axes if axes else None)]


def strided_slice(op, x, begin, end, strides):
    masks = [op.option(f, "i") for f in range(5)]
    offset = op.option(5, "B")
    index = []
    for i in range(len(strides)):
        has = [mask >> i & 1 for mask in masks]
        if has[2]:
            index.append(Ellipsis)
        elif has[3]:
            index.append(np.newaxis)
        elif has[4]:
            index.append(int(begin[i]))
        else:
            stop = int(end[i]) + (int(begin[i]) if offset else 0)
            index.append(slice(None if has[0] else int(begin[i]), None if has[1] else stop, int(strides[i])))
    return [x[tuple(index)]]


def slice_of(op, x, begin, size):
    return [x[tuple(slice(int(b), None if s < 0 else int(b) + int(s)) for b, s in zip(begin, size))]]


def depth_to_space(op, x):
    n, h, w, c = x.shape
    b = op.option(0, "i")
    return [x.reshape(n, h, w, b, b, c // (b * b)).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * b, w * b, c // (b * b))]


def space_to_depth(op, x):
    n, h, w, c = x.shape
    b = op.option(0, "i")
    return [x.reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // b, w // b, b * b * c)]


def space_to_batch(op, x, block, pads):
    fill = op.tensor(0).zero if op.tensor(0).is_quantised else 0
    m = len(block)
    x = np.pad(x, [(0, 0)] + [tuple(p) for p in pads] + [(0, 0)] * (x.ndim - m - 1), constant_values=fill)
    shape = [x.shape[0]]
    for d, b in enumerate(block):
        shape += [x.shape[1 + d] // b, b]
    parts = x.reshape(shape + list(x.shape[1 + m:]))
    order = [2 + 2 * d for d in range(m)] + [0] + [1 + 2 * d for d in range(m)]
    order += list(range(1 + 2 * m, parts.ndim))
    moved = parts.transpose(order)
    return [moved.reshape([-1] + list(moved.shape[m + 1:]))]


def batch_to_space(op, x, block, crops):
    m = len(block)
    parts = x.reshape([int(b) for b in block] + [-1] + list(x.shape[1:]))
    order = [m]
    for d in range(m):
        order += [m + 1 + d, d]
    order += list(range(2 * m + 1, parts.ndim))
    moved = parts.transpose(order)
    whole = moved.reshape([moved.shape[0]] + [x.shape[1 + d] * int(block[d]) for d in range(m)] + list(x.shape[1 + m:]))
    index = [slice(None)] + [slice(int(crops[d][0]), whole.shape[1 + d] - int(crops[d][1])) for d in range(m)]
    return [whole[tuple(index)]]


def unpack(op, x):
    axis = op.option(1, "i")
    return [np.take(x, i, axis) for i in range(x.shape[axis])]


def split_v(op, x, sizes, axis):
    sizes = [int(s) for s in sizes]
    axis = int(np.ravel(axis)[0])
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(s for s in sizes if s >= 0)
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def batch_matmul(op, a, b):
    a = np.swapaxes(a, -1, -2) if op.option(0, "B") else a
    b = np.swapaxes(b, -1, -2) if op.option(1, "B") else b
    return [to_stored(to_reals(a, op.tensor(0)) @ to_reals(b, op.tensor(1)), op.out())]


def l2_normalise(op, x):
    return x / np.maximum(np.sqrt((x.astype(np.float64) ** 2).sum(axis=-1, keepdims=True)), 1e-6)


def gelu(op, x):
    wide = x.astype(np.float64)
    if op.option(0, "B"):
        return 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide ** 3)))
    return 0.5 * wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))


def move(function):
    return lambda op, *arrays: [function(op, *arrays)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


OPERATORS = {
    0: lambda op, a, b: sum_of(op, a, b, 1),
    1: average_pool_2d,
    2: concatenation,
    3: conv_2d,
    4: depthwise_conv_2d,
    5: depth_to_space,
    6: lambda op, x: [to_reals(x, op.tensor(0)).astype(np.float32)],
    8: move(lambda op, x: np.floor(x)),
    9: fully_connected,
    11: by_reals(l2_normalise),
    14: by_reals(lambda op, x: sigmoid(x)),
    17: max_pool_2d,
    18: mul,
    19: relu_like(0, np.inf),
    20: relu_like(-1, 1),
    21: relu_like(0, 6),
    22: reshape,
    23: by_reals(lambda op, x, size: resize_bilinear(x, size, op.option(2, "B"), op.option(3, "B"))),
    25: softmax,
    26: space_to_depth,
    27: svdf,
    28: by_reals(lambda op, x: np.tanh(x)),
    34: pad,
    36: move(lambda op, x, i: np.take(x, i, op.option(0, "i"))),
    37: batch_to_space,
    38: space_to_batch,
    39: move(lambda op, x, perm: x.transpose([int(p) for p in perm])),
    40: reduce_by(np.mean),
    41: lambda op, a, b: sum_of(op, a, b, -1),
    42: by_reals(lambda op, a, b: a / b, fused_field=0),
    43: squeeze,
    45: strided_slice,
    47: by_reals(lambda op, x: np.exp(x)),
    49: lambda op, axis, x: np.split(x, len(op.outputs), int(np.ravel(axis)[0])),
    50: log_softmax,
    53: move(lambda op, x: x.astype(op.out().dtype)),
    54: by_reals(lambda op, x, alpha: np.where(x < 0, alpha * x, x)),
    55: by_reals(lambda op, a, b: np.maximum(a, b)),
    56: move(lambda op, x, axis: np.argmax(x, int(np.ravel(axis)[0])).astype(op.out().dtype)),
    57: by_reals(lambda op, a, b: np.minimum(a, b)),
    58: move(lambda op, a, b: a < b),
    59: by_reals(lambda op, x: -x),
    60: pad,
    61: move(lambda op, a, b: a > b),
    62: move(lambda op, a, b: a >= b),
    63: move(lambda op, a, b: a <= b),
    64: move(lambda op, c, a, b: np.where(c.reshape([-1] + [1] * (a.ndim - 1)) if c.ndim == 1 else c, a, b)),
    65: slice_of,
    66: by_reals(lambda op, x: np.sin(x)),
    67: transpose_conv,
    69: move(lambda op, x, times: np.tile(x, [int(t) for t in times])),
    70: move(lambda op, x, axis: np.expand_dims(x, int(np.ravel(axis)[0]))),
    71: move(lambda op, a, b: a == b),
    72: move(lambda op, a, b: a != b),
    73: by_reals(lambda op, x: np.log(x)),
    74: reduce_by(np.sum),
    75: by_reals(lambda op, x: np.sqrt(x)),
    76: by_reals(lambda op, x: 1 / np.sqrt(x)),
    77: move(lambda op, x: np.array(x.shape, op.out().dtype)),
    78: by_reals(lambda op, a, b: np.power(a, b)),
    79: move(lambda op, x, axis: np.argmin(x, int(np.ravel(axis)[0])).astype(op.out().dtype)),
    82: reduce_by(np.max),
    83: move(lambda op, *parts: np.stack(parts, op.option(1, "i"))),
    84: move(lambda op, a, b: a | b),
    86: move(lambda op, a, b: a & b),
    87: move(lambda op, x: ~x),
    88: unpack,
    89: reduce_by(np.min),
    90: move(lambda op, a, b: np.floor_divide(a, b)),
    92: by_reals(lambda op, x: x * x),
    95: move(lambda op, a, b: np.mod(a, b)),
    97: move(lambda op, x, size: resize_nearest(x, size, op.option(0, "B"), op.option(1, "B"))),
    98: by_reals(lambda op, x: np.where(x < 0, np.float32(op.option(0, "f")) * x, x)),
    99: by_reals(lambda op, a, b: (a - b) ** 2),
    100: mirror_pad,
    101: by_reals(lambda op, x: np.abs(x)),
    102: split_v,
    104: move(lambda op, x: np.ceil(x)),
    111: by_reals(lambda op, x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x)),
    114: quantize,
    116: move(lambda op, x: np.rint(x)),
    117: by_reals(lambda op, x: x * np.clip(x + 3, 0, 6) / 6),
    123: move(lambda op, c, a, b: np.where(c, a, b)),
    126: batch_matmul,
    150: by_reals(gelu),
}


class Model:
    def __init__(self, data):
        if data[4:8] != b"TFL3":
            raise ValueError("is no TensorFlow Lite model")
        root = Table(data, struct.unpack_from("<I", data, 0)[0])
        self.codes = root.tables(1)
        graph = root.tables(2)[0]
        buffers = [buffer.vector(0, np.uint8) for buffer in root.tables(4)]
        self.tensors = [Tensor(table, buffers) for table in graph.tables(0)]
        self.inputs = [int(i) for i in graph.vector(1, np.int32)]
        self.outputs = [int(i) for i in graph.vector(2, np.int32)]
        self.operators = [Operator(self, table) for table in graph.tables(3)]

    def run(self, inputs):
        values = dict(zip(self.inputs, inputs))
        for operator in self.operators:
            arrays = [None if i < 0 else values[i] if i in values else self.tensors[i].data if
                      self.tensors[i].data is not None else np.zeros(self.tensors[i].shape, self.tensors[i].dtype)
                      for i in operator.inputs]
            while arrays and arrays[-1] is None:
                arrays.pop()
            if operator.code not in OPERATORS:
                raise NotImplementedError(f"builtin operator {operator.code}")
            for index, array in zip(operator.outputs, OPERATORS[operator.code](operator, *arrays)):
                values[index] = np.asarray(array, self.tensors[index].dtype)
        return [values[i] for i in self.outputs]

    def make_inputs(self, seed, batch=1):
        """Random numbers that use the range of each input's type."""
        random = np.random.default_rng(seed)
        made = []
        for index in self.inputs:
            tensor = self.tensors[index]
            shape = [batch if d < 0 else d for d in tensor.signature]
            if tensor.dtype == np.bool_:
                made.append(random.random(shape) < 0.5)
            elif np.issubdtype(tensor.dtype, np.floating):
                made.append(random.standard_normal(shape).astype(tensor.dtype))
            elif tensor.is_quantised:
                info = np.iinfo(tensor.dtype)
                made.append(random.integers(info.min, info.max + 1, shape).astype(tensor.dtype))
            else:
                made.append(random.integers(1, 10, shape).astype(tensor.dtype))
        return made


# --- What `sluice verify` reads.

def varint(number):
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def to_message(array):
    """A TensorProto: dims (1), data_type (2), raw_data (9)."""
    array = np.asarray(array)
    out = b"".join(b"\x08" + varint(d) for d in array.shape)
    out += b"\x10" + varint(ONNX_TYPES[array.dtype.name])
    data = array.tobytes()
    return out + b"\x4a" + varint(len(data)) + data


def write_test_folder(model_bytes, folder, seed=1, num_sets=2, batch=1):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(model_bytes)
    model = Model(model_bytes)
    for n in range(num_sets):
        data_set = folder / f"test_data_set_{n}"
        data_set.mkdir(exist_ok=True)
        for old in data_set.glob("*.pb"):
            old.unlink()
        inputs = model.make_inputs(seed + n, batch)
        for kind, arrays in (("input", inputs), ("output", model.run(inputs))):
            for i, array in enumerate(arrays):
                (data_set / f"{kind}_{i}.pb").write_bytes(to_message(array))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sets", type=int, default=2)
    args = parser.parse_args()
    write_test_folder(pathlib.Path(args.model).read_bytes(), args.folder, args.seed, args.sets)


if __name__ == "__main__":
    main()
