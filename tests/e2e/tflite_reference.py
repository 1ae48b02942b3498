"""TensorFlow Lite models against an independent NumPy reference (tools/reference_tflite.py), through `sluice verify`.

  tflite_reference.py SLUICE [--data FOLDER] [--keep FOLDER]

Models of the test data where it is there, and models that are written here (tools/write_tflite.py): small nets of the
kinds that people deploy, and one operator each. Each runs with all passes and with none. Floats agree within 1e-4;
quantised numbers within one step, or within STEPS for nets that are deep or have scales that multiply steps."""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import reference_tflite as reference  # noqa: E402
from write_tflite import Net, Scalar  # noqa: E402


def flag(value):
    return Scalar("B", int(value))


def number(value):
    return Scalar("i", value)


# --- Nets.

def mobilenet_v1(net):
    x = net.conv(net.input([1, 32, 32, 3]), 8, stride=(2, 2))
    for filters, stride in ((16, 1), (24, 2), (24, 1), (32, 2)):
        x = net.conv(net.depthwise(x, stride=(stride, stride)), filters, kernel=(1, 1))
    x = net.average_pool(x, x.shape[1:3])
    x = net.reshape(net.conv(x, 10, kernel=(1, 1), activation=0), [1, 10])
    return [net.softmax(x)]


def mobilenet_v2(net):
    x = net.conv(net.input([1, 32, 32, 3]), 8, stride=(2, 2))
    for filters, stride in ((8, 1), (16, 2), (16, 1), (16, 1)):
        y = net.conv(x, 3 * x.shape[3], kernel=(1, 1))
        y = net.conv(net.depthwise(y, stride=(stride, stride)), filters, kernel=(1, 1), activation=0)
        x = net.add(x, y) if stride == 1 and x.shape[3] == filters else y
    x = net.mean(net.conv(x, 64, kernel=(1, 1)))
    return [net.softmax(net.dense(x, 10))]


def mobilenet_v3(net):
    x = net.hard_swish(net.conv(net.input([1, 24, 24, 3]), 8, stride=(2, 2), activation=0))
    y = net.hard_swish(net.depthwise(x, activation=0))
    gate = net.conv(net.mean(y, keep_dims=True), 4, kernel=(1, 1), activation=1)
    gate = net.conv(gate, 8, kernel=(1, 1), activation=0)
    gate = net.mul(net.op(21, [net.add(gate, net.constant([3.0]))]), net.constant([1 / 6]))
    x = net.add(x, net.mul(y, gate))
    x = net.average_pool(net.conv(x, 16, kernel=(1, 1), activation=1), (12, 12))
    return [net.softmax(net.dense(x, 6))]


def ds_cnn(net):
    x = net.reshape(net.input([1, 490]), [1, 49, 10, 1])
    x = net.conv(x, 16, kernel=(10, 4), stride=(2, 2), activation=1)
    for _ in range(3):
        x = net.conv(net.depthwise(x, activation=1), 16, kernel=(1, 1), activation=1)
    x = net.average_pool(x, x.shape[1:3])
    return [net.softmax(net.dense(x, 12))]


def micro_speech(net):
    x = net.reshape(net.input([1, 1960]), [1, 49, 40, 1])
    x = net.depthwise(x, kernel=(10, 8), stride=(2, 2), activation=1, multiplier=8)
    return [net.softmax(net.dense(x, 4))]


def keyword(net):
    x = net.input([1, 40])
    for units in (16, 16):
        x = net.svdf(x, units, rank=2, places=8)
    return [net.softmax(net.dense(x, 4))]


def resnet8(net):
    x = net.conv(net.input([1, 32, 32, 3]), 8, activation=1)
    for filters, stride in ((8, 1), (16, 2), (16, 2)):
        y = net.conv(x, filters, stride=(stride, stride), activation=1)
        y = net.conv(y, filters, activation=0)
        if stride != 1:
            x = net.conv(x, filters, kernel=(1, 1), stride=(stride, stride), activation=0)
        x = net.add(x, y, activation=1)
    x = net.average_pool(x, (8, 8))
    return [net.softmax(net.dense(x, 10))]


def autoencoder(net):
    x = net.input([1, 128])
    for units in (64, 64, 8, 64):
        x = net.dense(x, units, activation=1)
    return [net.dense(x, 128)]


def inception(net):
    x = net.conv(net.input([1, 17, 19, 3]), 6, padding=1, stride=(2, 2), activation=1)
    parts = [net.conv(x, 4, kernel=(1, 1), activation=1), net.conv(x, 4, kernel=(1, 7), activation=1),
             net.conv(net.max_pool(x, (3, 3), (1, 1), padding=0), 4, kernel=(1, 1), activation=1),
             net.conv(net.average_pool(x, (3, 3), (1, 1), padding=0), 4, kernel=(1, 1), activation=1)]
    x = net.max_pool(net.concat(parts), (2, 2), padding=0)
    return [net.softmax(net.dense(x, 5)), x]


def unet(net):
    x = net.conv(net.input([1, 16, 12, 2]), 6, activation=1)
    low = net.conv(net.max_pool(x, (2, 2)), 8, activation=1, dilation=(2, 2))
    up = net.transpose_conv(low, 6)
    x = net.concat([x, up])
    sized = net.op(23, [low, net.ints([16, 12])], "resize_bilinear", {3: flag(True)}, like=low)
    return [net.logistic(net.conv(net.concat([x, sized]), 1, activation=0))]


def dynamic(net):
    """As Keras exports a Flatten over a batch of any size: the shape is computed."""
    net.dynamic_batch = True
    x = net.conv(net.input([1, 8, 8, 3]), 4, activation=1, stride=(2, 2))
    shape = net.op(77, [x], "shape", {0: Scalar("b", 2)}, dtype=np.int32)
    batch = net.op(45, [shape, net.ints([0]), net.ints([1]), net.ints([1])], "strided_slice", {4: number(1)},
                   dtype=np.int32)
    net.dynamic_batch = False
    sizes = net.op(83, [batch, net.ints(64)], "pack", {0: number(2), 1: number(0)}, dtype=np.int32)
    net.dynamic_batch = True
    x = net.op(22, [x, sizes], like=x)
    return [net.softmax(net.dense(x, 5))]


NETS = [mobilenet_v1, mobilenet_v2, mobilenet_v3, ds_cnn, micro_speech, keyword, resnet8, autoencoder, inception, unet,
        dynamic]
STEPS = {"mobilenet_v2": 2, "mobilenet_v3": 3, "inception": 2, "unet": 2, "resnet8": 2, "autoencoder": 2}


# --- One operator each: name -> a function of the net that gives its outputs.

def image(net, shape=(2, 6, 5, 4)):
    return net.input(list(shape))


def after_conv(net, shape=(2, 6, 5, 4)):
    """Something that lies with channels second inside."""
    return net.conv(image(net, shape), 4, activation=0)


def unary(code, kind=None, fields=None, fixed=None):
    return lambda net: [net.op(code, [after_conv(net)], kind, fields, fixed=fixed(net) if fixed else None)]


def binary(code, kind=None):
    def build(net):
        x = after_conv(net)
        return [net.op(code, [x, image(net)], kind), net.op(code, [x, net.constant(np.linspace(0.5, 2, 4))], kind),
                net.op(code, [image(net, (3, 4)), net.constant([[1.5]])], kind)]
    return build


def positive(code, kind=None):
    return lambda net: [net.op(code, [net.add(net.op(101, [after_conv(net)]), net.constant([0.5]))], kind)]


def reduced(code):
    def build(net):
        def over(x, axes, keep):
            return net.op(code, [x, net.ints(axes)], "reducer", {0: flag(keep)}, like=x if code in (82, 89) else None)
        x, flat = after_conv(net), net.input([3, 4, 5])
        made = [over(x, axes, keep) for axes in ([1, 2], [3], [-1, 1], [2], [0, 1, 2, 3]) for keep in (True, False)]
        return made + [over(flat, [1], False)]
    return build


def strided_slices(net):
    x = after_conv(net, (2, 7, 6, 4))

    def cut(starts, ends, strides, **masks):
        fields = {f: number(masks.get(name, 0)) for f, name in
                  enumerate(("begin", "end", "ellipsis", "new", "shrink"))}
        return net.op(45, [x, net.ints(starts), net.ints(ends), net.ints(strides)], "strided_slice", fields, like=x)
    return [cut([0, 1, 2, 0], [2, 6, 6, 4], [1, 2, 1, 1]),
            cut([0, 0, 0, 3], [0, 0, 0, -5], [1, 1, 1, -1], begin=7, end=7),
            cut([1, 0], [2, 2], [1, 1], shrink=1), cut([0, 1], [0, 3], [1, 1], ellipsis=1),
            cut([0, 0, -1], [0, 0, 0], [1, 1, 1], begin=3, end=3, shrink=4, new=1)]


def resizes(net):
    x = after_conv(net)
    made = []
    for corners, centers in ((False, False), (True, False), (False, True)):
        for size in ([12, 10], [3, 4], [9, 5]):
            for code, kind, first in ((23, "resize_bilinear", 2), (97, "resize_nearest", 0)):
                fields = {first: flag(corners), first + 1: flag(centers)}
                made.append(net.op(code, [x, net.ints(size)], kind, fields, like=x))
    return made


def convolutions(net):
    x = image(net, (2, 9, 8, 4))
    made = [net.conv(x, 6, *case) for case in
            (((3, 3), (1, 1), 0, 0, (1, 1)), ((2, 4), (2, 1), 0, 1, (1, 1)), ((3, 2), (1, 2), 1, 3, (1, 1)),
             ((3, 3), (1, 1), 0, 2, (2, 2)), ((1, 1), (2, 2), 0, 0, (1, 1)), ((9, 8), (1, 1), 1, 0, (1, 1)))]
    made += [net.depthwise(x, *case) for case in
             (((3, 3), (1, 1), 0, 3, 1, (1, 1)), ((3, 3), (2, 2), 0, 3, 2, (1, 1)), ((4, 2), (1, 1), 1, 3, 3, (1, 1)),
              ((3, 3), (1, 1), 0, 3, 1, (2, 2)))]
    return made + [net.conv(x, 3, activation=0, bias=False)]


def transposed_convolutions(net):
    x = image(net, (2, 5, 4, 3))
    return [net.transpose_conv(x, 4, kernel, stride, padding) for kernel, stride, padding in
            (((3, 3), (2, 2), 0), ((2, 2), (2, 2), 1), ((4, 3), (2, 1), 1), ((1, 1), (2, 2), 0), ((5, 5), (3, 2), 0))]


def pools(net):
    x = after_conv(net, (2, 9, 8, 4))
    return [net.pool(x, code, kernel, stride, padding) for code in (1, 17) for kernel, stride, padding in
            (((2, 2), (2, 2), 1), ((3, 3), (2, 2), 0), ((3, 2), (1, 3), 0), ((9, 8), (1, 1), 1))]


def paddings(net):
    x = after_conv(net)
    made = [net.op(34, [x, net.ints(pads)], like=x) for pads in
            ([[0, 0], [1, 2], [0, 3], [0, 0]], [[1, 0], [0, 0], [0, 0], [2, 1]])]
    made += [net.op(100, [x, net.ints([[0, 0], [2, 1], [1, 3], [0, 2]])], "mirror_pad", {0: Scalar("b", mode)}, like=x)
             for mode in (0, 1)]
    return made


def moves(net):
    x = after_conv(net)
    made = [net.op(39, [x, net.ints([0, 2, 1, 3])], like=x), net.op(39, [x, net.ints([3, 0, 1, 2])], like=x),
            net.op(22, [x, net.ints([2, -1])], "reshape", {0: np.array([2, -1], np.int32)}, like=x),
            net.op(22, [x], "reshape", {0: np.array([10, 24], np.int32)}, like=x),
            net.op(70, [x, net.ints(1)], like=x), net.op(70, [x, net.ints(-1)], like=x),
            net.op(65, [x, net.ints([0, 1, 0, 2]), net.ints([-1, 3, 5, 2])], like=x),
            net.op(36, [x, net.ints([2, 0, 1])], "gather", {0: number(3)}, like=x),
            net.op(69, [x, net.ints([1, 2, 1, 3])], like=x),
            net.op(83, [x, x], "pack", {0: number(2), 1: number(1)}, like=x)]
    made += net.op(49, [net.ints(3), x], "split", {0: number(2)}, like=x, num_outputs=2)
    made += net.op(49, [net.ints(-3), x], "split", {0: number(3)}, like=x, num_outputs=3)
    made += net.op(102, [x, net.ints([1, -1]), net.ints(2)], "split_v", {0: number(2)}, like=x, num_outputs=2)
    made += net.op(88, [x], "unpack", {0: number(2), 1: number(0)}, like=x, num_outputs=2)
    squeezed = net.average_pool(x, (6, 5))
    made.append(net.op(43, [squeezed], "squeeze", {0: np.array([1, 2], np.int32)}, like=squeezed))
    made.append(net.op(43, [squeezed], "squeeze", {}, like=squeezed))
    return made


def blocks(net):
    x = after_conv(net, (2, 6, 4, 4))
    flat = net.input([2, 6, 3])
    batched = net.op(38, [x, net.ints([3, 2]), net.ints([[1, 2], [0, 0]])], like=x)
    return [net.op(26, [x], "space_to_depth", {0: number(2)}, like=x),
            net.op(5, [x], "depth_to_space", {0: number(2)}, like=x), batched,
            net.op(37, [batched, net.ints([3, 2]), net.ints([[1, 2], [0, 0]])], like=x),
            net.op(38, [flat, net.ints([2]), net.ints([[0, 0]])], like=flat)]


def logic(net):
    x, y = after_conv(net), image(net)
    less, more = [net.op(code, [x, y], dtype=np.bool_) for code in (58, 62)]
    made = [less, more] + [net.op(code, [x, y], dtype=np.bool_) for code in (61, 63, 71, 72)]
    both = [net.op(code, [less, net.op(87, [more], dtype=np.bool_)], dtype=np.bool_) for code in (84, 86)]
    chosen = net.op(123, [less, x, y])
    rows = net.op(61, [net.input([2]), net.constant([0.0])], dtype=np.bool_)
    return made + both + [chosen, net.op(64, [rows, x, y])]


def integers(net):
    a, b = net.input([4, 3], dtype=np.int32), net.input([4, 3], "b", dtype=np.int32)
    b = net.op(0, [b, net.ints([1])], "add", dtype=np.int32)
    made = [net.op(code, [a, b], kind, dtype=np.int32) for code, kind in ((0, "add"), (18, "mul"), (41, "sub"))]
    negative = net.op(41, [a, net.ints([6])], "sub", dtype=np.int32)
    made += [net.op(code, [negative, b], dtype=np.int32) for code in (90, 95)]
    return made + [net.op(53, [a], dtype=np.float32)]


def extremes(net):
    x = after_conv(net)
    return [net.op(56, [x, net.ints(3)], "arg_max", {0: Scalar("b", 2)}, dtype=np.int32),
            net.op(79, [x, net.ints(-3)], "arg_min", {0: Scalar("b", 4)}, dtype=np.int64)]


def matmuls(net):
    a, b = net.input([2, 3, 4, 5]), net.input([2, 3, 5, 6])
    c = net.input([2, 3, 6, 5])
    made = [net.op(126, [a, b], "batch_matmul"), net.op(126, [a, c], "batch_matmul", {1: flag(True)})]
    x = net.input([2, 7, 8])
    return made + [net.dense(x, 5, activation=1, keep_dims=True), net.dense(x, 5)]


def quantisation(net):
    x = after_conv(net)
    made = [net.op(6, [x], dtype=np.float32)] if net.quantises else []
    return made + [net.op(114, [x], fixed=(0.05, 3))] if net.quantises else [x]


def prelu(net):
    x = after_conv(net)
    return [net.op(54, [x, net.constant(np.linspace(-0.5, 0.5, 4).reshape(1, 1, 4))])]


FLOAT = ("float",)
ALL = ("float", "int8", "uint8")
OPERATORS = {
    "convolutions": (convolutions, ("float", "int8", "uint8", "int16", "hybrid", "float16")),
    "transposed_convolutions": (transposed_convolutions, ("float", "int8", "uint8")),
    "pools": (pools, ALL), "paddings": (paddings, ALL), "moves": (moves, ("float", "int8")), "blocks": (blocks, ALL),
    "strided_slices": (strided_slices, ("float", "int8")), "resizes": (resizes, ("float", "int8")),
    "logic": (logic, FLOAT), "integers": (integers, FLOAT), "extremes": (extremes, ("float", "int8")),
    "matmuls": (matmuls, ("float", "int8")), "quantisation": (quantisation, ("int8", "uint8")),
    "prelu": (prelu, ("float", "int8")),
    "add": (binary(0, "add"), ALL), "sub": (binary(41, "sub"), ("float", "int8")), "mul": (binary(18, "mul"), ALL),
    "div": (binary(42, "div"), FLOAT), "minimum": (binary(57), ("float", "int8")), "maximum": (binary(55), ALL),
    "squared_difference": (binary(99), ("float", "int8")),
    "mean": (reduced(40), ("float", "int8")), "sum": (reduced(74), ("float",)), "max": (reduced(82), ("float", "int8")),
    "min": (reduced(89), FLOAT),
    "relu": (unary(19), ALL), "relu6": (unary(21), ALL), "relu_n1_to_1": (unary(20), ("float", "int8")),
    "leaky_relu": (unary(98, "leaky_relu", {0: Scalar("f", 0.2)}), ("float", "int8")),
    "elu": (unary(111), ("float", "int8")), "hard_swish": (unary(117), ("float", "int8")),
    "tanh": (unary(28, fixed=lambda net: {"int8": (1 / 128, 0), "uint8": (1 / 128, 128)}.get(net.mode)), ALL),
    "logistic": (lambda net: [net.logistic(after_conv(net))], ALL),
    "gelu": (unary(150, "gelu", {0: flag(False)}), ("float", "int8")),
    "gelu_tanh": (unary(150, "gelu", {0: flag(True)}), FLOAT),
    "softmax": (lambda net: [net.softmax(after_conv(net)), net.softmax(net.input([3, 7]))], ALL),
    "log_softmax": (unary(50), FLOAT), "l2_normalization": (unary(11, "l2_norm"), ("float", "int8")),
    "exp": (unary(47), FLOAT), "abs": (unary(101), ("float", "int8")), "neg": (unary(59), FLOAT),
    "floor": (unary(8), FLOAT), "ceil": (unary(104), FLOAT), "round": (unary(116), FLOAT), "sin": (unary(66), FLOAT),
    "square": (unary(92), FLOAT), "log": (positive(73), FLOAT), "sqrt": (positive(75), FLOAT),
    "rsqrt": (positive(76), FLOAT),
}


def verify(sluice, folder, steps):
    """Lines of what is wrong."""
    problems = []
    for flags in ([], ["--disable-pass", "all"]):
        command = [sluice, "verify", "--atol", "1e-4", "--rtol", "1e-4", "--steps", str(steps), *flags, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            label = "without passes: " if flags else ""
            failed = [label + line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            problems += failed or [label + done.stderr]
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice")
    parser.add_argument("--data", default=os.environ.get("SLUICE_TEST_DATA", str(ROOT / "../shared/data")))
    parser.add_argument("--keep", help="write the test folders here and leave them")
    parser.add_argument("--only", default="", help="names that contain this")
    args = parser.parse_args()
    problems, num_models = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(args.keep or temporary)
        cases = [(f"{build.__name__}_{mode}", build, mode, STEPS.get(build.__name__, 1)) for build in NETS
                 for mode in ("float", "int8", "uint8")]
        # A step of the convolution in front of most of these may be two behind a finer scale.
        cases += [(f"{name}_{mode}", build, mode, 2) for name, (build, modes) in OPERATORS.items() for mode in modes]
        for name, build, mode, steps in cases:
            if args.only not in name:
                continue
            net = Net(mode, seed=len(name))
            model = net.finish(*build(net))
            batch = 3 if build is dynamic else 1
            reference.write_test_folder(model, place / name, seed=5, num_sets=1, batch=batch)
            problems += verify(args.sluice, place / name, steps)
            num_models += 1
        for path in sorted((pathlib.Path(args.data) / "tflite").glob("*.tflite")):
            if args.only in path.name:
                reference.write_test_folder(path.read_bytes(), place / path.stem)
                problems += verify(args.sluice, place / path.stem, 2)
                num_models += 1
    print("\n".join(problems + [f"{num_models} models, {len(problems)} problems"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
