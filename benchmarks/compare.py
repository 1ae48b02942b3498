#!/usr/bin/env python3
"""Sluice beside llama.cpp on the same models, taking turns in one run, because machines are noisy and ratios are not.

  PEERS=FOLDER benchmarks/compare.py [--rounds 3] [--quick] [--write-readme] MODEL.gguf ...
  PEERS=FOLDER benchmarks/compare.py --make /tmp/models --make-gguf make_gguf.py --vocab ANY.gguf

FOLDER is where `npm install node-llama-cpp` was run; --peer-script (or PEER_SCRIPT) names a program that is called
with MODEL, prompt tokens, new tokens, sequences and threads, and prints one JSON line with prefill_tok_s, decode_tok_s
and the threads it used; one that names none is taken to run 2. Where they are not as many as ours (--threads) there is
no ratio. Without either the other column stays empty. A line says so each time.

--make writes the models first: random weights of a 1.1B shape in Q4_0, Q8_0 (by --make-gguf, or MAKE_GGUF) and Q4_K
(by make_q4k.py).

Tests: prefill and decode for every instruction set of this machine, decode of 8 and 32 sequences, 16 HTTP clients, a
prompt that shares 2,000 tokens with the one before, start-up and memory. Prints a Markdown table, medians over the
rounds; --write-readme puts it between the two compare marks of README.md. Needs only Python's own library."""
import argparse
import http.client
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- compare:begin -->", "<!-- compare:end -->"
TESTS = ("isa", "decode", "http", "prefix", "start")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, shorter tests; the ratios are rough")
    parser.add_argument("--tests", default=",".join(TESTS), help="some of " + ",".join(TESTS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--binary", default=str(ROOT / "build/release/sluice"))
    parser.add_argument("--peer-script", default=os.environ.get("PEER_SCRIPT", ""))
    parser.add_argument("--make", metavar="FOLDER", help="write the benchmark models there first")
    parser.add_argument("--make-gguf", default=os.environ.get("MAKE_GGUF", ""), metavar="SCRIPT")
    parser.add_argument("--vocab", metavar="ANY.gguf", help="whose tokenizer the models get")
    parser.add_argument("--write-readme", action="store_true")
    args = parser.parse_args()
    unknown = set(args.tests.split(",")) - set(TESTS)
    if unknown:
        parser.error(f"--tests: there is no {', '.join(sorted(unknown))}, only {', '.join(TESTS)}")
    if args.make and not (args.vocab and args.make_gguf):
        parser.error("--make needs --vocab, and --make-gguf or MAKE_GGUF")
    if not args.models and not args.make:
        parser.error("name a model, or --make some")
    if not os.access(args.binary, os.X_OK):
        parser.error(f"{args.binary} is not there; build it (./dev build sluice) or name it with --binary")
    if args.quick:
        args.rounds = 1
    return args


def make_models(args):
    folder = pathlib.Path(args.make)
    folder.mkdir(parents=True, exist_ok=True)
    python = "/usr/bin/python3"  # Debian's, which has Debian's numpy
    paths = []
    for kind in ("q4_0", "q8_0", "q4_k"):
        path = folder / f"tl-{kind}.gguf"
        paths.append(str(path))
        if path.exists():
            continue
        print(f"making {path}", file=sys.stderr)
        script = ([str(ROOT / "benchmarks/make_q4k.py")] if kind == "q4_k" else
                  [args.make_gguf, "--shape", "tinyllama-1.1b", "--type", kind])
        subprocess.run([python, *script, "--vocab", args.vocab, "-o", str(path)], check=True)
    return paths


def run_json(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server in a child process, for the `with` statement; ready when /v1/models answers."""

    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"{' '.join(self.process.args)} ended with {self.process.returncode}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/v1/models")
                connection.getresponse().read()
                connection.close()
                return self
            except OSError:
                time.sleep(0.1)
        self.__exit__()
        sys.exit(f"{' '.join(self.process.args)} does not answer")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def seconds_to_first_token(self, ids):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = {"prompt": ids, "max_tokens": 2, "temperature": 0, "stream": True, "ignore_eos": True}
        begin = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            sys.exit(f"port {self.port}: {reply.status} {reply.read()[:200]}")
        while True:
            line = reply.readline()
            if not line:
                sys.exit(f"port {self.port}: the stream ended before its first token")
            if line.startswith(b"data: "):
                break
        seconds = time.perf_counter() - begin
        reply.read()
        connection.close()
        return seconds


def start_and_memory(command):
    """Seconds that a process takes which ends after one token, its largest resident memory in MB, what it printed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    printed = process.stdout.read()
    seconds = time.perf_counter() - begin
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    return seconds, usage.ru_maxrss / 1024, printed


class Comparison:
    def __init__(self, args):
        self.args = args
        self.prompt, self.generate = (128, 16) if args.quick else (512, 64)
        self.requests = 16 if args.quick else 32
        self.rows = {}  # (model, test) -> {"ours": [], "theirs": [], "unit", "command", "low_is_good", "by_script"}
        peers = pathlib.Path(os.environ.get("PEERS", "/nonexistent"))
        self.has_node = (peers / "node_modules/node-llama-cpp").is_dir() and \
            subprocess.run(["sh", "-c", "command -v node"], stdout=subprocess.DEVNULL).returncode == 0
        self.has_peer_script = self.has_node and os.path.isfile(args.peer_script)
        if not self.has_node:
            print("SKIPPED llama.cpp: needs node, and PEERS naming a folder where `npm install node-llama-cpp` was run",
                  file=sys.stderr)
        elif not self.has_peer_script:
            print("SKIPPED llama.cpp without a server: --peer-script or PEER_SCRIPT names no file", file=sys.stderr)
        self.peer_threads = None  # of the script, once it has run
        info = run_json([args.binary, "info", "--json"])
        self.machine = f"{info['cpu']}, {args.threads} threads, commit {info['commit']}"
        self.isas = [isa for isa in reversed(info["fills"]) if isa != "scalar"]

    def add(self, model, test, side, value, unit, command, low_is_good=False, by_script=False):
        row = self.rows.setdefault((pathlib.Path(model).name, test), {
            "ours": [], "theirs": [], "unit": unit, "command": command, "low_is_good": low_is_good,
            "by_script": by_script})
        row["by_script"] = row["by_script"] or by_script
        row[side].append(value)

    def bench(self, model, *flags, isa=None):
        """Tokens/s of each test, and the command that a reader can repeat."""
        command = [self.args.binary, "bench", model, *map(str, flags), "-r", "1", "-t", str(self.args.threads)]
        found = run_json(command + ["--json"], {"SLUICE_ISA": isa} if isa else None)
        rates = [row["tokens_per_second"] for row in found["tests"]]
        shown = "sluice bench MODEL " + " ".join(map(str, flags))
        return rates, f"SLUICE_ISA={isa} {shown}" if isa else shown

    def peer_command(self, model, prompt, generate, sequences):
        return ["node", self.args.peer_script, model, *map(str, (prompt, generate, sequences, self.args.threads))]

    def note_threads(self, found):
        first = self.peer_threads is None
        self.peer_threads = found.get("threads", 2)
        if first and self.peer_threads != self.args.threads:
            print(f"NO RATIOS for {self.args.peer_script}: it decides its own threads and runs {self.peer_threads}, "
                  f"sluice {self.args.threads}; use --threads {self.peer_threads}", file=sys.stderr)

    def peer(self, model, prompt, generate, sequences):
        found = run_json(self.peer_command(model, prompt, generate, sequences))
        self.note_threads(found)
        return found["prefill_tok_s"], found["decode_tok_s"]

    def test_isa(self, model):
        for isa in self.isas:
            (prefill, decode), command = self.bench(model, "-p", self.prompt, "-n", self.generate, "-d", self.prompt,
                                                    isa=isa)
            self.add(model, f"prefill {self.prompt}, {isa}", "ours", prefill, "tok/s", command)
            self.add(model, f"decode, 1 sequence, {isa}", "ours", decode, "tok/s", command)
            if self.has_peer_script:
                prefill, decode = self.peer(model, self.prompt, self.generate, 1)
                self.add(model, f"prefill {self.prompt}, {isa}", "theirs", prefill, "tok/s", command, by_script=True)
                self.add(model, f"decode, 1 sequence, {isa}", "theirs", decode, "tok/s", command, by_script=True)

    def test_decode(self, model):
        (one, eight, many), command = self.bench(model, "-p", 0, "-n", self.generate // 2, "-d", self.prompt // 4,
                                                 "-b", "1,8,32")
        self.add(model, "decode, 8 sequences", "ours", eight, "tok/s", command)
        self.add(model, "decode, 32 sequences (beside our own 1)", "ours", many, "tok/s", command)
        self.add(model, "decode, 32 sequences (beside our own 1)", "theirs", one, "tok/s", command)
        if self.has_peer_script:
            _, theirs = self.peer(model, self.prompt // 4, self.generate // 2, 8)
            self.add(model, "decode, 8 sequences", "theirs", theirs, "tok/s", command, by_script=True)

    def servers(self, model, sequences, context):
        """(side, running server) for each of the two, one after the other."""
        port = free_port()
        with Server([self.args.binary, "serve", "--model", model, "--port", str(port), "--log-level", "error",
                     "-t", str(self.args.threads)], port) as server:
            yield "ours", server
        if self.has_node:
            port = free_port()
            script = str(ROOT / "benchmarks/llama_server.mjs")
            with Server(["node", script, model, str(port), str(sequences), str(context), str(self.args.threads)],
                        port) as server:
                yield "theirs", server

    def test_http(self, model):
        flags = ["--concurrency", "16", "--num-prompts", str(self.requests), "--random-input-len", "100",
                 "--random-output-len", str(self.generate), "--ignore-eos"]
        shown = "sluice bench serve " + " ".join(flags)
        for side, server in self.servers(model, 16, 512):
            found = run_json([self.args.binary, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", *flags,
                              "--seed", "1", "--json"])
            if found["failed"]:
                sys.exit(f"{model}: {found['failed']} requests failed: {found['errors'][0]['message']}")
            self.add(model, "HTTP, 16 clients, output", side, found["output_throughput"], "tok/s", shown)
            self.add(model, "HTTP, 16 clients, first token (mean)", side, found["mean_ttft_ms"], "ms", shown,
                     low_is_good=True)

    def test_prefix(self, model):
        shared = [300 + (k * 37) % 20000 for k in range(2000)]
        for side, server in self.servers(model, 1, 2304):
            server.seconds_to_first_token([500 + k for k in range(32)])  # warms up
            first = server.seconds_to_first_token(shared + [1000 + k for k in range(16)])
            second = server.seconds_to_first_token(shared + [2000 + k for k in range(16)])
            self.add(model, "2,000 shared prompt tokens: first token sooner by", side, first / second, "times",
                     "two requests with the same 2,000 first tokens")

    def test_start(self, model):
        command = [self.args.binary, "run", model, "Hello", "--raw", "--max-tokens", "1", "--temperature", "0",
                   "-t", str(self.args.threads)]
        shown = 'sluice run MODEL "Hello" --raw --max-tokens 1'
        sides = [("ours", command)]
        if self.has_peer_script:
            sides.append(("theirs", self.peer_command(model, 2, 1, 1)))
        for side, program in sides:
            start_and_memory(program)  # the file is in memory afterwards
            seconds, megabytes, printed = start_and_memory(program)
            if side == "theirs":
                self.note_threads(json.loads(printed.splitlines()[-1]))
            self.add(model, "start, one token, end (theirs: node and node-llama-cpp)", side, seconds, "s", shown,
                     low_is_good=True, by_script=True)
            self.add(model, "resident memory (theirs: node and node-llama-cpp)", side, megabytes, "MB", shown,
                     low_is_good=True, by_script=True)

    def run(self, models):
        tests = self.args.tests.split(",")
        for round_index in range(self.args.rounds):
            for model in models:
                for test in tests:
                    print(f"round {round_index + 1} of {self.args.rounds}: {pathlib.Path(model).name}, {test}",
                          file=sys.stderr)
                    getattr(self, "test_" + test)(model)

    def table(self):
        lines = ["| model | test | unit | sluice | llama.cpp | ratio | command |", "|---|---|---|---|---|---|---|"]
        for (model, test), row in self.rows.items():
            ours = statistics.median(row["ours"])
            theirs = statistics.median(row["theirs"]) if row["theirs"] else None
            uneven = row["by_script"] and self.peer_threads != self.args.threads
            ratio = "" if theirs is None or uneven else f"{theirs / ours if row['low_is_good'] else ours / theirs:.2f}"
            digits = 2 if row["unit"] == "s" else 1
            cells = [model, test, row["unit"], f"{ours:.{digits}f}",
                     "" if theirs is None else f"{theirs:.{digits}f}", ratio, f"`{row['command']}`"]
            lines.append("| " + " | ".join(cells) + " |")
        note = f"{self.machine}; medians of {self.args.rounds}; a ratio above 1 is in our favour."
        if self.peer_threads not in (None, self.args.threads):
            note += f" llama.cpp without a server ran {self.peer_threads} threads, hence no ratios there."
        return note + "\n\n" + "\n".join(lines)


def write_readme(table, begin=BEGIN, end=END):
    path = ROOT / "README.md"
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        sys.exit(f"{path}: needs the lines {begin} and {end} once each, in this order")
    head, rest = text.split(begin)
    path.write_text(f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}")


def main():
    args = parse_arguments()
    models = args.models + (make_models(args) if args.make else [])
    for model in models:
        if not os.path.exists(model):
            sys.exit(f"{model}: no such file")
    comparison = Comparison(args)
    comparison.run(models)
    print(comparison.table())
    if args.write_readme:
        write_readme(comparison.table())


if __name__ == "__main__":
    main()
