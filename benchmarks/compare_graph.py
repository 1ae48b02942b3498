#!/usr/bin/env python3
"""Sluice beside ONNX Runtime on the same models, in turn in one run, because machines are noisy and ratios are not.

  PEERS=FOLDER benchmarks/compare_graph.py --models FOLDER [--rounds 3] [--quick] [--write-readme]
  PEERS=FOLDER benchmarks/compare_graph.py resnet50.onnx=input:f32:4x3x224x224 ...

FOLDER of PEERS is where `npm install onnxruntime-node` was run; --peer-script (or PEER_SCRIPT) names a program that is
called with a model and NAME:TYPE:DIMS for each input (types f32, i64: numbers below 100, ones64, zeros64), runs it on
2 threads and prints one JSON line with p50_ms. Without either the other columns stay empty, and a line says so.

Cases are MODEL.onnx=INPUT,INPUT... with inputs as above; without any, the ten of CASES, from --models. Each precision
of --precisions is a plan of `sluice optimize`, int8 calibrated with random numbers (speed does not depend on what the
numbers are). A round measures the other runtime and every plan once, in turned order every second round; figures are
medians over the rounds of medians. Prints two Markdown tables; --write-readme puts them between the compare-graph marks
of README.md. Needs only Python's own library."""
import argparse
import array
import math
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

import compare

BEGIN, END = "<!-- compare-graph:begin -->", "<!-- compare-graph:end -->"
PRECISIONS = ("fp32", "bf16", "int8")


def images(batch):
    return f"input:f32:{batch}x3x224x224"


def tokens(batch, length=128):
    return ",".join(f"{name}:{kind}:{batch}x{length}" for name, kind in
                    (("input_ids", "i64"), ("attention_mask", "ones64"), ("token_type_ids", "zeros64")))


CASES = [("resnet50.onnx", images(1)), ("resnet50.onnx", images(8)), ("mobilenet_v2.onnx", images(1)),
         ("mobilenet_v2.onnx", images(8)), ("efficientnet_b0.onnx", images(1)), ("vit_b_16.onnx", images(1)),
         ("minilm-l6.onnx", tokens(1)), ("minilm-l6.onnx", tokens(8)), ("bert-base.onnx", tokens(1)),
         ("bert-base.onnx", tokens(8))]
# Least ratios to ONNX Runtime's float32: (model, batch or None for all) by precision.
TARGETS = {
    "fp32": {(None, None): 0.95},
    "bf16": {("resnet50", 8): 6, ("bert-base", 8): 6, ("vit_b_16", None): 6, ("mobilenet_v2", None): 2,
             ("efficientnet_b0", None): 2},
    "int8": {("resnet50", 8): 9, ("bert-base", 8): 9},
}
MEAN_TARGETS = {"fp32": 1.15}


def write_npy(values, typecode, dims):
    """The bytes of an .npy file (NumPy's format version 1.0) with C order."""
    kind = {"f": "<f4", "q": "<i8", "i": "<i4", "d": "<f8"}[typecode]
    shape = "(" + "".join(f"{dim}, " for dim in dims) + ")"
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    data = array.array(typecode, values)
    if sys.byteorder == "big":
        data.byteswap()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data.tobytes()


def write_npz(path, arrays):
    """arrays: name -> (values, typecode of Python's array, dims)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, (values, typecode, dims) in arrays.items():
            file.writestr(name + ".npy", write_npy(values, typecode, dims))


class Input:
    def __init__(self, text):
        self.text = text
        match = re.fullmatch(r"(.+):(f32|i64|ones64|zeros64):(\d+(?:x\d+)*)", text)
        if not match:
            sys.exit(f"{text}: an input is NAME:f32:1x3x224x224 (or i64, ones64, zeros64)")
        self.name, self.kind = match.group(1), match.group(2)
        self.dims = [int(dim) for dim in match.group(3).split("x")]

    def shape(self):
        return f"{self.name}:{'x'.join(map(str, self.dims))}"

    def samples(self, generator):
        """At least four samples along the first axis, in whole batches."""
        dims = [self.dims[0] * math.ceil(4 / self.dims[0]), *self.dims[1:]]
        count = math.prod(dims)
        if self.kind == "f32":
            return [generator.random() for _ in range(count)], "f", dims
        made = {"i64": lambda i: i % 100, "ones64": lambda i: 1, "zeros64": lambda i: 0}[self.kind]
        return [made(i) for i in range(count)], "q", dims


class Case:
    def __init__(self, path, inputs):
        self.path, self.stem = str(path), pathlib.Path(path).stem
        self.inputs = [Input(text) for text in inputs.split(",")]
        self.shapes = ",".join(one.shape() for one in self.inputs)
        self.batch = self.inputs[0].dims[0]
        self.name = f"{self.stem} {'x'.join(map(str, self.inputs[0].dims))}"

    def target(self, precision):
        for (stem, batch), ratio in TARGETS.get(precision, {}).items():
            if stem in (None, self.stem) and batch in (None, self.batch):
                return ratio
        return None


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="MODEL.onnx=INPUTS")
    parser.add_argument("--models", metavar="FOLDER", help="where the models of CASES are")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="some of " + ",".join(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=2, help="seconds that each plan is measured in a round")
    parser.add_argument("--quick", action="store_true", help="one short round; the ratios are rough")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=str(compare.ROOT / "build/release/sluice"))
    parser.add_argument("--peer-script", default=os.environ.get("PEER_SCRIPT", ""))
    parser.add_argument("--write-readme", action="store_true")
    args = parser.parse_args()
    args.precisions = args.precisions.split(",")
    unknown = set(args.precisions) - set(PRECISIONS)
    if unknown:
        parser.error(f"--precisions: there is no {', '.join(sorted(unknown))}, only {', '.join(PRECISIONS)}")
    if not os.access(args.binary, os.X_OK):
        parser.error(f"{args.binary} is not there; build it (./dev build sluice) or name it with --binary")
    if bool(args.cases) == bool(args.models):
        parser.error("name cases, or the folder of the usual ones with --models")
    if args.quick:
        args.rounds, args.duration = 1, 0.2
    pairs = [text.rpartition("=")[::2] for text in args.cases] or \
        [(pathlib.Path(args.models) / name, inputs) for name, inputs in CASES]
    args.cases = [Case(path, inputs) for path, inputs in pairs]
    for case in args.cases:
        if not os.path.isfile(case.path):
            parser.error(f"{case.path}: no such file (cases are MODEL.onnx=NAME:f32:1x3x224x224)")
    return args


class Row:
    """A case in a precision: how long its plan takes, and what else is known of it."""

    def __init__(self, case, precision):
        self.case, self.precision, self.milliseconds, self.ready_seconds = case, precision, [], []
        self.build_seconds = self.report = None

    def median(self):
        return statistics.median(self.milliseconds)


class Comparison:
    def __init__(self, args):
        self.args, self.rows, self.theirs = args, [], {}
        peers = pathlib.Path(os.environ.get("PEERS", "/nonexistent"))
        has_node = subprocess.run(["sh", "-c", "command -v node"], stdout=subprocess.DEVNULL).returncode == 0
        self.has_peer = has_node and (peers / "node_modules/onnxruntime-node").is_dir() and \
            os.path.isfile(args.peer_script)
        if not self.has_peer:
            print("SKIPPED ONNX Runtime: needs node, PEERS naming a folder where `npm install onnxruntime-node` was "
                  "run, and --peer-script or PEER_SCRIPT naming a script", file=sys.stderr)
        elif args.threads != 2:
            print(f"NO RATIOS: the script runs 2 threads, sluice {args.threads}", file=sys.stderr)
        info = compare.run_json([args.binary, "info", "--json"])
        self.machine = f"{info['cpu']}, {args.threads} threads, commit {info['commit']}"

    def build(self, case, precision, folder):
        """A Row with its plan, or None if the model cannot have this precision."""
        row = Row(case, precision)
        row.plan = f"{folder}/{precision}.plan"
        command = [self.args.binary, "optimize", case.path, "-o", row.plan, "--precision", precision, "--opt-shapes",
                   case.shapes, "-t", str(self.args.threads)]
        if precision == "int8":
            data, generator = f"{folder}/calibration.npz", random.Random(1)
            write_npz(data, {one.name: one.samples(generator) for one in case.inputs})
            command += ["--calibration", data]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        row.build_seconds = time.perf_counter() - begin
        if done.returncode != 0:
            print(f"SKIPPED {case.name}, {precision}: {done.stderr.strip()[-300:]}", file=sys.stderr)
            return None
        return row

    def measure(self, row):
        row.report = compare.run_json([self.args.binary, "bench", "graph", row.plan, "--shapes", row.case.shapes, "-t",
                                       str(self.args.threads), "--duration", str(self.args.duration), "--json"])
        row.milliseconds.append(row.report["latency_ms"]["median"])
        row.ready_seconds.append(row.report["load_seconds"] + row.report["compile_seconds"])

    def measure_peer(self, case):
        found = compare.run_json(["node", self.args.peer_script, case.path, *(one.text for one in case.inputs)])
        self.theirs.setdefault(case, []).append(found["p50_ms"])

    def run(self):
        for case in self.args.cases:
            with tempfile.TemporaryDirectory() as folder:
                print(f"{case.name}: building {', '.join(self.args.precisions)}", file=sys.stderr)
                built = [self.build(case, precision, folder) for precision in self.args.precisions]
                rows = [row for row in built if row]
                turns = [lambda row=row: self.measure(row) for row in rows]
                if self.has_peer:
                    turns.insert(0, lambda: self.measure_peer(case))
                for round_index in range(self.args.rounds):
                    print(f"{case.name}: round {round_index + 1} of {self.args.rounds}", file=sys.stderr)
                    for turn in turns if round_index % 2 == 0 else reversed(turns):
                        turn()
                self.rows += rows

    def ratio(self, row):
        theirs = self.theirs.get(row.case)
        return statistics.median(theirs) / row.median() if theirs and self.args.threads == 2 else None

    def table(self):
        lines = [f"{self.machine}; medians of {self.args.rounds}; a ratio above 1 is in our favour. ONNX Runtime "
                 "computes in float32 in each row.", "",
                 "| model | precision | sluice ms | ONNX Runtime ms | ratio | target |", "|---|---|---|---|---|---|"]
        for precision in self.args.precisions:
            ratios = []
            for row in self.rows:
                if row.precision != precision:
                    continue
                theirs, ratio, target = self.theirs.get(row.case), self.ratio(row), row.case.target(precision)
                ratios += [ratio] if ratio else []
                lines.append(f"| {row.case.name} | {precision} | {row.median():.2f} | "
                             f"{f'{statistics.median(theirs):.2f}' if theirs else ''} | "
                             f"{f'{ratio:.2f}' if ratio else ''} | {describe_target(ratio, target)} |")
            if ratios:
                mean = math.exp(statistics.fmean(map(math.log, ratios)))
                lines.append(f"| geometric mean | {precision} | | | {mean:.2f} | "
                             f"{describe_target(mean, MEAN_TARGETS.get(precision))} |")
        lines += ["", "Memory for everything between inputs and outputs, beside what it would be if no tensor took the "
                  "memory of one that is dead; and seconds that `sluice optimize` takes, and to load the plan and make "
                  "it ready for the shape:", "",
                  "| model | precision | activations MB | without reuse MB | share | plan built s | ready s | times |",
                  "|---|---|---|---|---|---|---|---|"]
        for row in self.rows:
            used, naive = row.report["activation_bytes"] / 1e6, row.report["activation_bytes_without_reuse"] / 1e6
            ready = statistics.median(row.ready_seconds)
            share = used / max(naive, 1e-9)
            lines.append(f"| {row.case.name} | {row.precision} | {used:.2f} | {naive:.2f} | {share:.2f} "
                         f"| {row.build_seconds:.2f} | {ready:.3f} | {row.build_seconds / ready:.1f} |")
        return "\n".join(lines)


def describe_target(ratio, target):
    if target is None:
        return ""
    return f"at least {target}" + ("" if ratio is None else ", met" if ratio >= target else ", missed")


def main():
    args = parse_arguments()
    comparison = Comparison(args)
    comparison.run()
    print(comparison.table())
    if args.write_readme:
        compare.write_readme(comparison.table(), BEGIN, END)


if __name__ == "__main__":
    main()
