#!/usr/bin/env python3
"""ONNX models on the command line: optimize, bench, verify --against, dump, and what they say when something is wrong.

  graph_cli.py SLUICE EXAMPLE

Writes its models itself, byte by byte. EXAMPLE is the built examples/graph/run_model.cc. Needs only Python's own
library."""
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from compare_graph import write_npz  # noqa: E402

BINARY, EXAMPLE = sys.argv.pop(1), sys.argv.pop(1)


# Protobuf: field numbers are those of onnx.proto.
def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def attribute(name, value):
    if isinstance(value, list):
        return field(1, name) + b"".join(field(8, one) for one in value) + field(20, 7)
    kind = {int: (3, 2), float: (2, 1), str: (4, 3)}[type(value)]
    return field(1, name) + field(kind[0], value) + field(20, kind[1])


def node(op, inputs, outputs, name="", **attributes):
    return (b"".join(field(1, one) for one in inputs) + b"".join(field(2, one) for one in outputs) +
            field(3, name or op + "_" + outputs[0]) + field(4, op) +
            b"".join(field(5, attribute(*item)) for item in attributes.items()))


def constant(name, dims, values):
    return (b"".join(field(1, dim) for dim in dims) + field(2, 1) + field(8, name) +
            field(9, struct.pack(f"<{len(values)}f", *values)))


def port(name, dims):
    shape = b"".join(field(1, field(1, dim) if isinstance(dim, int) else field(2, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))


def model(nodes, constants, inputs, outputs):
    graph = (b"".join(field(1, one) for one in nodes) + field(2, "net") + b"".join(field(5, one) for one in constants) +
             b"".join(field(11, one) for one in inputs) + b"".join(field(12, one) for one in outputs))
    return field(1, 8) + field(2, "graph_cli.py") + field(7, graph) + field(8, field(1, "") + field(2, 17))


def convolutions():
    """image [batch, 3, 16, 16] -> two convolutions, a mean, 10 scores."""
    generator = random.Random(1)

    def weights(name, *dims):
        count, fan_in = 1, 1
        for i, dim in enumerate(dims):
            count, fan_in = count * dim, fan_in * (dim if i else 1)
        return constant(name, dims, [generator.gauss(0, 1) / fan_in ** 0.5 for _ in range(count)])

    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    return model([node("Conv", ["image", "w1", "b1"], ["a"], "first", **pads), node("Relu", ["a"], ["b"]),
                  node("Conv", ["b", "w2"], ["c"], "second", **pads), node("Relu", ["c"], ["d"]),
                  node("GlobalAveragePool", ["d"], ["e"]), node("Flatten", ["e"], ["f"]),
                  node("Gemm", ["f", "w3", "b3"], ["scores"], "last", transB=1)],
                 [weights("w1", 16, 3, 3, 3), weights("b1", 16), weights("w2", 32, 16, 3, 3), weights("w3", 10, 32),
                  weights("b3", 10)],
                 [port("image", ["batch", 3, 16, 16])], [port("scores", ["batch", 10])])


MASK = (1 << 64) - 1


def hash_of(data):
    """The checksum of plan files, for a manifest that is changed on purpose."""
    def mix(state, word):
        state = (state ^ word) * 0x9e3779b97f4a7c15 & MASK
        return (state << 29 | state >> 35) & MASK
    lanes, whole = [1, 2, 3, 4], len(data) // 32 * 32
    for at in range(0, whole, 32):
        lanes = [mix(lane, word) for lane, word in zip(lanes, struct.unpack_from("<4Q", data, at))]
    for byte in data[whole:]:
        lanes[0] = mix(lanes[0], byte)
    result = len(data)
    for lane in lanes:
        result = mix(result, lane)
    return result


class PlanBytes:
    """A plan file taken apart: header, manifest."""

    def __init__(self, path):
        self.data = bytearray(pathlib.Path(path).read_bytes())
        _, self.format, _, self.offset, size, _, _, _, _ = struct.unpack_from("<8sIIQQQQQQ", self.data)
        self.manifest = json.loads(self.data[self.offset:self.offset + size])

    def rewritten(self, format_version=None, **changes):
        """The file with other values in its manifest, and checksums that fit."""
        manifest = json.dumps({**self.manifest, **changes}).encode()
        data = self.data[:self.offset] + manifest
        head = struct.pack("<8sIIQQQQQ", b"SLUICEPL", format_version or self.format, 0, self.offset, len(manifest),
                           hash_of(manifest), len(data), 0)
        return head + struct.pack("<Q", hash_of(head)) + data[64:]

    def flipped(self, at):
        data = bytearray(self.data)
        data[at] ^= 0x41
        return bytes(data)


def run(*args, code=0):
    """What the command prints. An error is one line, and never the end by a signal."""
    done = subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (args, done.returncode, done.stdout[-800:], done.stderr[-800:])
    if code == 0:
        return done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, (args, done.stderr)
    return done.stderr


def sluice(*args, code=0):
    return run(BINARY, *args, code=code)


class GraphCli(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.model = self.write("net.onnx", convolutions())
        self.plan = self.folder / "net.plan"

    def write(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def build(self, *flags):
        return sluice("optimize", self.model, "-o", self.plan, "-t", 1, *flags)

    def bench(self, path, *flags):
        return json.loads(sluice("bench", path, "--duration", 0, "--iterations", 3, "--warm-up", 0, "-t", 1, "--json",
                                 *flags))

    def calibration(self, *dims):
        generator, count = random.Random(2), 1
        for dim in dims:
            count *= dim
        path = self.folder / "calibration.npz"
        write_npz(path, {"image": ([generator.random() for _ in range(count)], "f", dims)})
        return path

    def cosine(self, path, *flags):
        text = sluice("verify", path, "--against", self.model, *flags)
        return float(re.search(r"cosine[^\d]*([\d.]+)", text).group(1))

    def test_plan_from_model_to_bench(self):
        text = self.build("--opt-shapes", "image:4x3x16x16")
        self.assertRegex(text, r"compiled +for image float32 4x3x16x16: \d+ steps, activations .* without reuse")
        self.assertRegex(text, r"plan +.*net.plan, .* MB, fp32, built in .* for 1 threads and ")
        self.assertGreater(self.cosine(self.plan, "--shapes", "image:4x3x16x16"), 0.99999)
        report = self.bench(self.plan, "--shapes", "image:4x3x16x16", "--layers")
        for key in ("commit", "cpu", "isa", "threads", "model", "precision", "inputs", "load_seconds",
                    "compile_seconds", "activation_bytes", "activation_bytes_without_reuse",
                    "packed_weight_bytes", "runs", "throughput_qps", "gflops", "latency_ms", "interrupted", "layers"):
            self.assertIn(key, report)
        self.assertEqual(set(report["latency_ms"]), {"min", "max", "mean", "median", "p90", "p95", "p99"})
        self.assertGreaterEqual(report["runs"], 3)
        self.assertGreater(min(report["activation_bytes"], report["activation_bytes_without_reuse"]), 0)
        self.assertEqual(sum("Conv" in layer["op"] for layer in report["layers"]), 2)
        self.assertIn("Conv", sluice("dump", self.plan))

    def test_precisions(self):
        sizes = {}
        for precision, least in (("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.9999)):
            self.build("--precision", precision)
            self.assertGreater(self.cosine(self.plan), least, precision)
            sizes[precision] = self.plan.stat().st_size
        self.assertLess(sizes["fp16"], sizes["fp32"])

    def test_trace_has_an_event_for_each_step(self):
        trace = self.folder / "trace.json"
        report = self.bench(self.model, "--layers", "--trace", trace)
        events = json.loads(trace.read_text())["traceEvents"]
        self.assertEqual([event["name"] for event in events], [layer["name"] for layer in report["layers"]])
        for event in events:
            self.assertEqual(event["ph"], "X")
            self.assertGreaterEqual(event["dur"], 0)
            self.assertIn("kernel", event["args"])

    def test_profiles(self):
        self.build("--min-shapes", "image:1x3x16x16", "--opt-shapes", "image:2x3x16x16", "--max-shapes",
                   "image:4x3x16x16", "--opt-shapes", "image:16x3x16x16")
        for batch in (1, 4, 16):
            self.bench(self.plan, "--shapes", f"image:{batch}x3x16x16")
        text = sluice("bench", self.plan, "--shapes", "image:8x3x16x16", code=1)
        self.assertIn("dimension 0 of input 'image' (float32 8x3x16x16) is outside", text)
        self.assertIn("1x3x16x16 to 4x3x16x16", text)
        self.assertIn("dimension 3", sluice("bench", self.plan, "--shapes", "image:1x3x16x17", code=1))

    def test_timing_cache_is_used_again(self):
        cache = self.folder / "timings"
        self.build("--timing-cache", cache)
        first = cache.read_text()
        self.assertGreater(len(first.splitlines()), 1)
        self.build("--timing-cache", cache)
        self.assertEqual(cache.read_text(), first)
        self.build("--timing-cache", cache, "--opt-shapes", "image:7x3x16x16")
        self.assertTrue(set(first.splitlines()) < set(cache.read_text().splitlines()))
        cache.write_text("no timing\n")
        self.assertIn("timings", sluice("optimize", self.model, "-o", self.plan, "--timing-cache", cache, code=1))

    def test_stale_plans(self):
        self.build("--precision", "bf16")
        plan = PlanBytes(self.plan)
        for change, told in (({"sluice": "0.0.7"}, "built by sluice 0.0.7"), ({"isa": "abacus"}, "for abacus")):
            self.plan.write_bytes(plan.rewritten(**change))
            text = sluice("bench", self.plan, code=1)
            self.assertIn(told, text)
            self.assertIn("--rebuild", text)
            self.model.unlink(missing_ok=True)  # the plan has what it needs
            sluice("optimize", "--rebuild", self.plan)
            self.assertEqual(self.bench(self.plan)["precision"], "bf16")
        self.plan.write_bytes(plan.rewritten(format_version=99))
        self.assertIn("format 99", sluice("bench", self.plan, code=1))

    def test_damaged_plans(self):
        self.build()
        plan = PlanBytes(self.plan)
        places = {name: where["offset"] + where["bytes"] // 2 for name, where in plan.manifest["sections"].items()
                  if where["bytes"]}
        self.assertLessEqual({"model", "source", "constants", "timings"}, set(places))
        for name, at in {**places, "header": 20, "manifest": plan.offset + 5}.items():
            self.plan.write_bytes(plan.flipped(at))
            if name != "source":  # which only a rebuild reads
                self.assertIn("damaged", sluice("bench", self.plan, code=1), name)
            if name in ("model", "timings"):
                sluice("optimize", "--rebuild", self.plan)
                self.bench(self.plan)
            else:
                self.assertIn("damaged", sluice("optimize", "--rebuild", self.plan, code=1), name)
        for size in (8, 63, 64, 200, len(plan.data) // 2, len(plan.data) - 1):
            self.plan.write_bytes(plan.data[:size])
            sluice("bench", self.plan, code=1)
            sluice("optimize", "--rebuild", self.plan, code=1)
        self.assertEqual(sorted(os.listdir(self.folder)), ["net.onnx", "net.plan"])
        self.assertIn("no plan", sluice("optimize", "--rebuild", self.model, code=1))

    def test_hostile_manifests(self):
        self.build()
        plan = PlanBytes(self.plan)
        sections = plan.manifest["sections"]
        far = {**sections, "model": {**sections["model"], "offset": 1 << 62}}
        negative = {**sections, "model": {**sections["model"], "bytes": -5}}
        packed = [{**entry, "offset": 1 << 50} for entry in plan.manifest["packed"]]
        self.assertTrue(packed)
        for changes in ({"sections": far}, {"sections": negative}, {"sections": {}}, {"sections": 7},
                        {"packed": packed}, {"packed": [{}]}, {"profiles": [{"image": {}}]}, {"threads": "two"},
                        {"precision": "fp3"}, {"disabled_passes": ["no-pass"]}):
            self.plan.write_bytes(plan.rewritten(**changes))
            text = sluice("bench", self.plan, "--duration", 0, "--iterations", 1, code=1)
            self.assertTrue(text.startswith("sluice: "), (changes, text))

    def test_int8(self):
        data = self.calibration(8, 3, 16, 16)
        text = self.build("--precision", "int8", "--calibration", data)
        self.assertRegex(text, r"(?i)cosine")
        self.assertGreater(self.cosine(self.plan, "--data", data), 0.99)
        kernels = " ".join(layer["op"] for layer in self.bench(self.plan, "--layers")["layers"])
        self.assertIn("QConv", kernels)
        quantised = self.folder / "int8.onnx"
        sluice("optimize", self.model, "-o", quantised, "--precision", "int8", "--calibration", data,
               "--calibration-method", "percentile", "--exclude", "first", "--symmetric", "--per-tensor")
        self.assertIn("QuantizeLinear", sluice("dump", quantised))
        self.assertGreater(self.cosine(quantised, "--data", data), 0.98)
        self.assertLess(quantised.stat().st_size, self.model.stat().st_size)

    def test_int8_mistakes(self):
        def error(*flags, code=1):
            text = sluice("optimize", self.model, "-o", self.plan, "--precision", "int8", *flags, code=code)
            self.assertFalse(self.plan.exists())
            return text
        self.assertIn("--calibration", error())
        text = error("--calibration", self.calibration(8, 3, 16, 15))
        self.assertIn("image", text)
        self.assertIn("8x3x16x15", text)
        self.assertIn("none.npz", error("--calibration", self.folder / "none.npz"))
        write_npz(self.folder / "other.npz", {"other": ([0.0] * 768, "f", [1, 3, 16, 16]),
                                              "more": ([0.0] * 768, "f", [1, 3, 16, 16])})
        self.assertIn("image", error("--calibration", self.folder / "other.npz"))
        self.assertIn("bad.npz", error("--calibration", self.write("bad.npz", b"PK\3\4 and no more")))
        self.assertIn("nowhere", error("--calibration", self.calibration(8, 3, 16, 16), "--exclude", "nowhere"))
        text = sluice("optimize", self.model, "-o", self.plan, "--symmetric", code=2)
        self.assertIn("--symmetric needs --precision int8", text)

    def test_nothing_is_left_of_what_cannot_be_written(self):
        (self.folder / "taken.plan").mkdir()
        before = sorted(os.listdir(self.folder))
        for output in ("no/such/folder/net.plan", "taken.plan"):
            self.assertIn("cannot write", sluice("optimize", self.model, "-o", self.folder / output, code=1))
            self.assertEqual(sorted(os.listdir(self.folder)), before)
        text = run("sh", "-c", 'ulimit -f 4; exec "$@"', "sh", BINARY, "optimize", self.model, "-o", self.plan, code=1)
        self.assertIn("cannot write", text)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.assertIn("cannot write", sluice("optimize", self.model, "-o", self.folder / "no/net.onnx", code=1))
        self.assertIn("cannot write", sluice("bench", self.model, "--duration", 0, "--iterations", 1, "--trace",
                                             self.folder / "no/trace.json", code=1))
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_usage_errors(self):
        for args in (("optimize", self.model), ("optimize", self.model, "-o", self.plan, "--precision", "fp8"),
                     ("optimize", self.model, "-o", self.plan, "--opt-shapes", "image"),
                     ("optimize", self.model, "-o", self.plan, "--min-shapes", "image:4x3x16x16", "--opt-shapes",
                      "image:2x3x16x16"),
                     ("optimize", "--rebuild", self.plan, "--precision", "bf16"),
                     ("bench", self.model, "--shapes", "image:3x"), ("verify", self.model, "--shapes", "image:1")):
            sluice(*args, code=2)
        self.assertIn("no input 'picture'", sluice("bench", self.model, "--shapes", "picture:1x3x16x16", code=1))
        self.assertIn("cannot have the shape", sluice("bench", self.model, "--shapes", "image:1x3", code=1))
        self.build()
        self.assertIn("is a plan", sluice("bench", self.plan, "--precision", "bf16", code=2))
        self.assertIn("--rebuild", sluice("optimize", self.plan, "-o", self.plan, code=2))

    def test_commands_that_are_for_something_else(self):
        for command in ("run", "serve", "inspect"):
            text = sluice(command, self.model, code=2)
            self.assertIn("is an ONNX model", text)
            self.assertIn("sluice bench", text)
        self.assertIn("is a TFLite model", sluice("run", "net.tflite", code=2))
        self.assertIn("is a plan", sluice("serve", "--model", self.plan, code=2))
        self.assertIn("--against", sluice("verify", self.model, code=2))
        self.assertIn("name the .onnx", sluice("dump", self.folder, code=2))
        self.build()
        self.assertIn("after all passes", sluice("dump", self.plan, "--after", "last", code=2))

    def test_example_program(self):
        self.build("--min-shapes", "image:1x3x16x16", "--opt-shapes", "image:2x3x16x16")
        for path in (self.model, self.plan):
            text = run(EXAMPLE, path, "image:2x3x16x16")
            self.assertIn("takes image: float32 [batch x 3 x 16 x 16]", text)
            self.assertIn("gives scores: float32 [batch x 10]", text)
            self.assertRegex(text, r"scores = -?[\d.e-]+ .* \.\.\.")
        self.assertIn("is outside of the plan's profile", run(EXAMPLE, self.plan, "image:3x3x16x16", code=1))
        self.assertIn("none.onnx", run(EXAMPLE, self.folder / "none.onnx", code=1))


if __name__ == "__main__":
    unittest.main()
