"""Writes TensorFlow Lite models from a description in a few lines, with random weights, for tests.

A Net is built operator by operator: each is computed at once on sample inputs by reference_tflite, which tells the
shape of its output and, in quantised modes, its range and so its scale. Modes: float, int8 (weights with a scale a
channel), uint8 (one scale a tensor, as older converters wrote), int16 (activations; weights int8), hybrid (weights int8
under float activations), float16 (weights, behind DEQUANTIZE)."""
import struct

import numpy as np

import reference_tflite as reference

TYPE_NUMBERS = {np.dtype(t): number for number, t in reference.TYPES.items()}
OPTIONS = {"conv_2d": 1, "depthwise_conv_2d": 2, "pool_2d": 5, "svdf": 6, "fully_connected": 8, "softmax": 9,
           "concatenation": 10, "add": 11, "l2_norm": 12, "resize_bilinear": 15, "reshape": 17, "space_to_depth": 19,
           "mul": 21, "gather": 23, "reducer": 27, "sub": 28, "div": 29, "squeeze": 30, "strided_slice": 32,
           "split": 35, "arg_max": 40, "transpose_conv": 49, "shape": 55, "arg_min": 57, "pack": 59, "unpack": 64,
           "resize_nearest": 74, "leaky_relu": 75, "mirror_pad": 77, "split_v": 79, "depth_to_space": 94,
           "batch_matmul": 101, "gelu": 116}


# --- The flatbuffer: tables as {field: value}, children behind their parents.

class Scalar:
    def __init__(self, form, value):
        self.form, self.value = form, value


class Writer:
    def __init__(self, root):
        self.out = bytearray(struct.pack("<I4s", 0, b"TFL3"))
        self.patch(0, root)

    def align(self, to, ahead=0):
        while (len(self.out) + ahead) % to:
            self.out.append(0)

    def patch(self, at, child):
        struct.pack_into("<I", self.out, at, self.write(child) - at)

    def write(self, item):
        if isinstance(item, dict):
            return self.write_table(item)
        if isinstance(item, str):
            self.align(4)
            start = len(self.out)
            data = item.encode()
            self.out += struct.pack("<I", len(data)) + data + b"\0"
            return start
        if isinstance(item, np.ndarray):
            self.align(16, ahead=4)
            start = len(self.out)
            self.out += struct.pack("<I", item.size) + item.tobytes()
            return start
        self.align(4)
        start = len(self.out)
        self.out += struct.pack("<I", len(item)) + bytes(4 * len(item))
        for i, child in enumerate(item):
            self.patch(start + 4 + 4 * i, child)
        return start

    def write_table(self, fields):
        fields = {field: value for field, value in fields.items() if value is not None}
        size, places = 4, {}
        for field, value in sorted(fields.items(), key=lambda entry: -self.width(entry[1])):
            width = self.width(value)
            size += -size % width
            places[field] = size
            size += width
        vtable = [4 + 2 * (max(fields, default=-1) + 1), size] + [places.get(f, 0) for f in
                                                                  range(max(fields, default=-1) + 1)]
        self.align(8, ahead=2 * len(vtable))
        self.out += struct.pack(f"<{len(vtable)}H", *vtable)
        start = len(self.out)
        self.out += struct.pack("<i", 2 * len(vtable)) + bytes(size - 4)
        for field, value in fields.items():
            if isinstance(value, Scalar):
                struct.pack_into("<" + value.form, self.out, start + places[field], value.value)
        for field, value in fields.items():
            if not isinstance(value, Scalar):
                self.patch(start + places[field], value)
        return start

    @staticmethod
    def width(value):
        return struct.calcsize("<" + value.form) if isinstance(value, Scalar) else 4


# --- Models.

class Handle:
    """A tensor of the net, and what it holds for the sample input."""

    def __init__(self, index, real, dtype, scales=(), zeros=(), axis=0):
        self.index, self.real, self.dtype, self.axis = index, real, np.dtype(dtype), axis
        self.scales, self.zeros = np.asarray(scales, np.float32), np.asarray(zeros, np.int64)
        self.is_quantised = False  # the sample is real numbers
        self.shape = real.shape


class Options:
    def __init__(self, fields):
        self.fields = fields

    def vector(self, field, dtype):
        return self.fields.get(field, np.zeros(0, dtype))


class Sample:
    """An operator as reference_tflite sees it."""

    def __init__(self, fields, handles, dtype, num_outputs):
        self.options, self.handles, self.outputs = Options(fields), handles, [None] * num_outputs
        self.result = Handle(0, np.zeros(0), dtype)

    def option(self, field, form, default=0):
        found = self.options.fields.get(field)
        return default if found is None else found.value

    def tensor(self, i):
        return self.handles[i] if i < len(self.handles) else None

    def out(self, i=0):
        return self.result


class Net:
    def __init__(self, mode="float", seed=1, dynamic_batch=False):
        self.mode, self.random, self.dynamic_batch = mode, np.random.default_rng(seed), dynamic_batch
        self.buffers, self.tensors, self.codes, self.operators, self.inputs = [{}], [], [], [], []
        self.activation_type = np.dtype({"int8": np.int8, "uint8": np.uint8, "int16": np.int16}.get(mode, np.float32))

    @property
    def quantises(self):
        return self.activation_type != np.float32

    def add_tensor(self, real, dtype, data=None, scales=(), zeros=(), axis=0, name=None):
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append({0: np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)})
        quantisation = None
        if len(scales):
            quantisation = {2: np.asarray(scales, np.float32), 3: np.asarray(zeros, np.int64), 6: Scalar("i", axis)}
        shape = np.asarray(real.shape, np.int32)
        signature = None
        if self.dynamic_batch and data is None and real.ndim > 0:
            signature = shape.copy()
            signature[0] = -1
        index = len(self.tensors)
        self.tensors.append({0: shape, 1: Scalar("b", TYPE_NUMBERS[np.dtype(dtype)]), 2: Scalar("I", buffer),
                             3: name or f"tensor{index}", 4: quantisation, 7: signature})
        return Handle(index, real, dtype, scales, zeros, axis)

    def range_of(self, real):
        """Scale and zero point of what a tensor holds."""
        low, high = min(0.0, float(real.min(initial=0))), max(0.0, float(real.max(initial=0)))
        info = np.iinfo(self.activation_type)
        if self.mode == "int16":
            return max(-low, high, 1e-6) / info.max, 0
        scale = max(high - low, 1e-6) / (info.max - info.min)
        return scale, int(np.clip(np.rint(info.min - low / scale), info.min, info.max))

    def quantised(self, real, like=None, fixed=None, data=None, name=None):
        if not self.quantises:
            return self.add_tensor(real, np.float32, data=data, name=name)
        if like is not None:
            scales, zeros = like.scales, like.zeros
        else:
            scale, zero = fixed if fixed is not None else self.range_of(real)
            scales, zeros = [scale], [zero]
        if data is not None:
            info = np.iinfo(self.activation_type)
            data = np.clip(np.rint(data / scales[0]) + zeros[0], info.min, info.max).astype(self.activation_type)
            real = (data.astype(np.float64) - zeros[0]) * scales[0]
        return self.add_tensor(real.astype(np.float32), self.activation_type, data, scales, zeros, name=name)

    def input(self, shape, name="input", dtype=None):
        if dtype is not None:
            real = self.random.integers(0, 4, shape).astype(dtype)
            handle = self.add_tensor(real, dtype, name=name)
        else:
            handle = self.quantised(self.random.standard_normal(shape).astype(np.float32), name=name)
        self.inputs.append(handle.index)
        return handle

    def ints(self, values, dtype=np.int32):
        values = np.asarray(values, dtype)
        return self.add_tensor(values, dtype, data=values)

    def constant(self, array):
        """A constant operand, quantised if activations are."""
        array = np.asarray(array, np.float32)
        return self.quantised(array, data=array)

    def weights(self, shape, axis, fan_in):
        real = (self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        if self.mode == "float":
            return self.add_tensor(real, np.float32, data=real)
        if self.mode == "float16":
            half = self.add_tensor(real.astype(np.float16), np.float16, data=real.astype(np.float16))
            return self.op(6, [half])
        if self.mode == "uint8":
            low, high = float(real.min()), float(real.max())
            scale = (high - low) / 255
            zero = int(np.rint(-low / scale))
            stored = np.clip(np.rint(real / scale) + zero, 0, 255).astype(np.uint8)
            return self.add_tensor((stored.astype(np.float32) - zero) * np.float32(scale), np.uint8, stored, [scale],
                                   [zero])
        others = tuple(d for d in range(len(shape)) if d != axis)
        scales = (np.abs(real).max(axis=others) / 127).astype(np.float32)
        wide = scales.reshape([-1 if d == axis else 1 for d in range(len(shape))])
        stored = np.clip(np.rint(real / wide), -127, 127).astype(np.int8)
        return self.add_tensor((stored * wide).astype(np.float32), np.int8, stored, scales, np.zeros(len(scales)), axis)

    def bias(self, x, weights, count):
        real = (0.1 * self.random.standard_normal(count)).astype(np.float32)
        if not self.quantises:
            return self.add_tensor(real, np.float32, data=real)
        scales = np.broadcast_to(x.scales[0] * weights.scales.astype(np.float64), (count,))
        stored = np.rint(real / scales).astype(np.int64 if self.mode == "int16" else np.int32)
        kept = scales if len(weights.scales) > 1 else scales[:1]
        return self.add_tensor((stored * scales).astype(np.float32), stored.dtype, stored, kept, np.zeros(len(kept)))

    def op(self, code, inputs, kind=None, fields=None, like=None, fixed=None, dtype=None, num_outputs=1, version=1):
        """Field values are Scalars or arrays. `like`: the output has its scale; `fixed`: (scale, zero point)."""
        fields = fields or {}
        result_type = np.dtype(dtype or (np.float32 if inputs and not np.issubdtype(inputs[-1].dtype, np.integer)
                                         or self.quantises else inputs[0].dtype))
        sample = Sample(fields, inputs, result_type, num_outputs)
        arrays = [None if handle is None else handle.real for handle in inputs]
        reals = [np.asarray(real) for real in reference.OPERATORS[code](sample, *arrays)]
        outputs = []
        for real in reals:
            if dtype is not None or real.dtype != np.float32:
                outputs.append(self.add_tensor(real.astype(result_type) if dtype else real, dtype or real.dtype))
            else:
                outputs.append(self.quantised(real, like=like, fixed=fixed))
        key = (code, version)
        if key not in self.codes:
            self.codes.append(key)
        table = {0: Scalar("I", self.codes.index(key)),
                 1: np.array([-1 if handle is None else handle.index for handle in inputs], np.int32),
                 2: np.array([handle.index for handle in outputs], np.int32)}
        if kind is not None:
            table[3], table[4] = Scalar("B", OPTIONS[kind]), fields
        self.operators.append(table)
        return outputs[0] if num_outputs == 1 else outputs

    # The operators that models are made of. padding: 0 SAME, 1 VALID; activation: 0 none, 1 ReLU, 3 ReLU6.
    def conv(self, x, filters, kernel=(3, 3), stride=(1, 1), padding=0, activation=3, dilation=(1, 1), bias=True):
        depth = x.shape[3]
        w = self.weights([filters, *kernel, depth], 0, depth * kernel[0] * kernel[1])
        inputs = [x, w] + ([self.bias(x, w, filters)] if bias else [])
        return self.op(3, inputs, "conv_2d", {0: Scalar("b", padding), 1: Scalar("i", stride[1]),
                                              2: Scalar("i", stride[0]), 3: Scalar("b", activation),
                                              4: Scalar("i", dilation[1]), 5: Scalar("i", dilation[0])})

    def depthwise(self, x, kernel=(3, 3), stride=(1, 1), padding=0, activation=3, multiplier=1, dilation=(1, 1)):
        channels = x.shape[3] * multiplier
        w = self.weights([1, *kernel, channels], 3, kernel[0] * kernel[1])
        return self.op(4, [x, w, self.bias(x, w, channels)], "depthwise_conv_2d",
                       {0: Scalar("b", padding), 1: Scalar("i", stride[1]), 2: Scalar("i", stride[0]),
                        3: Scalar("i", multiplier), 4: Scalar("b", activation), 5: Scalar("i", dilation[1]),
                        6: Scalar("i", dilation[0])})

    def transpose_conv(self, x, filters, kernel=(3, 3), stride=(2, 2), padding=0):
        depth = x.shape[3]
        w = self.weights([filters, *kernel, depth], 0, depth * kernel[0] * kernel[1] / (stride[0] * stride[1]))
        grow = [n * s if padding == 0 else (n - 1) * s + k for n, s, k in zip(x.shape[1:3], stride, kernel)]
        shape = self.ints([x.shape[0], *grow, filters])
        return self.op(67, [shape, w, x, self.bias(x, w, filters)], "transpose_conv",
                       {0: Scalar("b", padding), 1: Scalar("i", stride[1]), 2: Scalar("i", stride[0])}, version=3)

    def dense(self, x, units, activation=0, keep_dims=False):
        depth = x.shape[-1] if keep_dims else int(np.prod(x.shape[1:]))
        w = self.weights([units, depth], 0, depth)
        return self.op(9, [x, w, self.bias(x, w, units)], "fully_connected",
                       {0: Scalar("b", activation), 2: Scalar("B", int(keep_dims))})

    def svdf(self, x, units, rank, places, activation=1):
        """Weights with one scale a tensor; those of time, and the state, of 16 bits."""
        filters = units * rank
        features = (self.random.standard_normal([filters, x.shape[1]]) / np.sqrt(x.shape[1])).astype(np.float32)
        time = self.random.standard_normal([filters, places]).astype(np.float32)
        bias = (0.1 * self.random.standard_normal(units)).astype(np.float32)
        if self.quantises:
            feature_scale, time_scale = np.abs(features).max() / 127, np.abs(time).max() / 32767
            state_scale = 1.1 * np.abs(x.real @ features.T).max() / 32767
            stored = [np.rint(features / feature_scale).astype(np.int8), np.rint(time / time_scale).astype(np.int16),
                      np.rint(bias / (state_scale * time_scale)).astype(np.int32)]
            parts = [self.add_tensor(real, data.dtype, data, [scale], [0]) for real, data, scale in
                     zip((features, time, bias), stored, (feature_scale, time_scale, state_scale * time_scale))]
            state = self.add_tensor(np.zeros([x.shape[0], filters * places], np.float32), np.int16, None,
                                    [state_scale], [0])
        else:
            parts = [self.add_tensor(real, np.float32, real) for real in (features, time, bias)]
            state = self.add_tensor(np.zeros([x.shape[0], filters * places], np.float32), np.float32)
        self.tensors[state.index][5] = Scalar("B", 1)
        return self.op(27, [x, *parts, state], "svdf", {0: Scalar("i", rank), 1: Scalar("b", activation)})

    def pool(self, x, code, kernel, stride, padding=1, activation=0):
        return self.op(code, [x], "pool_2d", {0: Scalar("b", padding), 1: Scalar("i", stride[1]),
                                              2: Scalar("i", stride[0]), 3: Scalar("i", kernel[1]),
                                              4: Scalar("i", kernel[0]), 5: Scalar("b", activation)}, like=x)

    def average_pool(self, x, kernel, stride=None, padding=1):
        return self.pool(x, 1, kernel, stride or kernel, padding)

    def max_pool(self, x, kernel, stride=None, padding=1):
        return self.pool(x, 17, kernel, stride or kernel, padding)

    def add(self, a, b, activation=0):
        return self.op(0, [a, b], "add", {0: Scalar("b", activation)})

    def mul(self, a, b, activation=0):
        return self.op(18, [a, b], "mul", {0: Scalar("b", activation)})

    def mean(self, x, axes=(1, 2), keep_dims=False):
        return self.op(40, [x, self.ints(axes)], "reducer", {0: Scalar("B", int(keep_dims))})

    def reshape(self, x, shape):
        return self.op(22, [x, self.ints(shape)], "reshape", {0: np.asarray(shape, np.int32)}, like=x)

    def softmax(self, x):
        fixed = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}.get(self.mode)
        return self.op(25, [x], "softmax", {0: Scalar("f", 1.0)}, fixed=fixed)

    def logistic(self, x):
        fixed = {"int8": (1 / 256, -128), "uint8": (1 / 256, 0), "int16": (1 / 32768, 0)}.get(self.mode)
        return self.op(14, [x], fixed=fixed)

    def hard_swish(self, x):
        return self.op(117, [x])

    def concat(self, parts, axis=3):
        return self.op(2, parts, "concatenation", {0: Scalar("i", axis)})

    def finish(self, *outputs):
        graph = {0: self.tensors, 1: np.array(self.inputs, np.int32),
                 2: np.array([handle.index for handle in outputs], np.int32), 3: self.operators, 4: "main"}
        codes = [{0: Scalar("b", min(code, 127)), 2: Scalar("i", version), 3: Scalar("i", code)}
                 for code, version in self.codes]
        return bytes(Writer({0: Scalar("I", 3), 1: codes, 2: [graph], 3: "sluice test model",
                             4: self.buffers}).out)
