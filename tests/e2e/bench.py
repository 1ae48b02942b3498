#!/usr/bin/env python3
"""`sluice bench` and its modes on the built-in model, `bench serve` against a real server and against broken ones.

bench.py SLUICE_BINARY"""
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BINARY = sys.argv.pop(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = str(ROOT / "models/stories260K/stories260K.gguf")
LATENCIES = [f"{figure}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el")
             for figure in ("mean", "median", "std", "p99")]


def bench(*args, code=0, env=None):
    done = subprocess.run([BINARY, "bench", *map(str, args)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **(env or {})})
    assert done.returncode == code, (args, done.returncode, done.stdout[-800:], done.stderr[-800:])
    return done


def bench_json(*args, **more):
    return json.loads(bench(*args, "--json", **more).stdout)


def error_line(*args, code=1, env=None):
    lines = [line for line in bench(*args, code=code, env=env).stderr.splitlines() if line.startswith("sluice: ")]
    assert len(lines) == 1, lines
    return lines[0]


def interrupted(*args, after, code=130):
    """Runs until a line with `after` is printed and a moment longer, and presses Ctrl-C."""
    process = subprocess.Popen([BINARY, "bench", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    shown = ""
    for line in process.stdout:
        shown += line
        if after in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == code, (process.returncode, shown, rest, errors)
    return shown + rest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Fake(http.server.BaseHTTPRequestHandler):
    """A server that is not sluice: no /tokenize, no token ids, no usage; fails as its class attributes say."""
    protocol_version = "HTTP/1.1"
    with_usage = False
    fails_from = 10**9  # streams after this many get status 503
    breaks_off = False
    endless_list = False
    stops_after = 10**9  # tokens
    meta = None  # of the model
    counts_steps = False
    is_slow = False
    streams = 0
    prompts = []

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json"):
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/metrics":
            steps = "".join(f'vllm:iteration_tokens_total_{kind}{{model_name="{name}"}} {count}\n'
                            for name, count in (("fake", 10 * Fake.streams), ("other", time.time()))
                            for kind in ("count", "sum"))
            return self.reply(200 if self.counts_steps else 404, steps, "text/plain")
        if self.path == "/version":
            return self.reply(200, '{"version": "1.2.3"}')
        model = {"id": "fake", **({"meta": self.meta} if self.meta else {})}
        return self.reply(200, json.dumps({"data": [model]}) + " " * (17 << 20 if self.endless_list else 0))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.reply(404, "{}")
        if isinstance(body.get("prompt"), list):
            return self.reply(400, json.dumps({"error": {"message": "no ids"}}))
        if not body.get("stream"):
            usage = {"prompt_tokens": 5 + 2 * len(body["prompt"].split()), "completion_tokens": 1}
            answer = {"choices": [{"text": "x"}], **({"usage": usage} if self.with_usage else {})}
            return self.reply(200, json.dumps(answer))
        Fake.streams += 1
        Fake.prompts.append(body["prompt"])
        if Fake.streams > self.fails_from:
            return self.reply(503, json.dumps({"error": {"message": f"overloaded, try in {Fake.streams} s"}}))
        if self.is_slow and Fake.streams > 4:
            time.sleep(30)
        count = min(body["max_tokens"], self.stops_after)
        reason = "stop" if count < body["max_tokens"] else "length"
        events = 'data: {"choices":[{"text":"a"}]}\n\n' * (count - 1)
        events += 'data: {"choices":[{"text":"a","finish_reason":"%s"}]}\n\n' % reason
        if self.breaks_off:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(events.encode())
            self.close_connection = True
            return None
        return self.reply(200, events + "data: [DONE]\n\n", "text/event-stream")


class Modes(unittest.TestCase):
    def test_grid_names_the_machine_and_its_limits(self):
        found = bench_json("-p", 32, "-n", 8, "-r", 2, "-b", "1,2")
        for key in ("commit", "build", "cpu", "isa", "threads", "model", "description", "limits", "repack"):
            self.assertIn(key, found)
        self.assertGreater(found["limits"]["int8_tops"], 0)
        self.assertFalse(bench_json("-p", 4, "-n", 0, "-r", 1, "--no-repack")["repack"])
        prompt, decode = found["tests"][:2]
        self.assertEqual(prompt["test"], "pp32")
        self.assertIsNone(prompt["weights_gb_per_second"])
        self.assertGreater(decode["weights_gb_per_second"], 0)
        self.assertGreater(prompt["peak_percent"], 0)
        self.assertGreater(decode["bandwidth_percent"], 0)
        self.assertGreater(decode["read_gb_per_second"], 0)
        self.assertFalse(found["interrupted"])
        text = bench("-p", 16, "-n", 4, "-r", 1).stdout
        for word in ("limits", "of memory", "of peak", "pp16", "tg4"):
            self.assertIn(word, text)

    def test_latency(self):
        found = bench_json("latency", MODEL, "--batch-size", 2, "--input-len", 16, "--output-len", 8, "--num-iters", 4,
                           "--num-iters-warmup", 1)
        self.assertEqual(len(found["latencies"]), 4)
        self.assertAlmostEqual(sum(found["latencies"]) / 4, found["avg_latency"], places=9)
        self.assertLessEqual(found["percentiles"]["10"], found["percentiles"]["99"])
        for key in ("prompt_tokens_per_second", "prompt_peak_percent", "decode_tokens_per_second",
                    "decode_peak_percent", "decode_bandwidth_percent", "decode_weights_gb_per_second"):
            self.assertGreater(found[key], 0, key)
        self.assertIsNone(found["prompt_bandwidth_percent"])
        self.assertIn("Avg latency:", bench("latency", "--batch-size", 1, "--output-len", 1, "--num-iters", 1).stdout)
        self.assertRegex(bench("latency", "--batch-size", 1, "--output-len", 4, "--num-iters", 1).stdout,
                         r"(?s)Prompts: .* of peak.*Decode: .*weights .* of memory.* of peak")
        self.assertIn("2048", error_line("latency", "--input-len", 5000))

    def test_max_model_len_holds_in_every_mode(self):
        self.assertIn("--max-model-len allows 16", error_line("-p", 32, "-n", 0, "--max-model-len", 16))
        self.assertIn("--max-model-len allows 16",
                      error_line("latency", "--input-len", 32, "--output-len", 2, "--max-model-len", 16))
        self.assertIn("16 positions", error_line("throughput", "--input-len", 32, "--max-model-len", 16))
        found = bench_json("-p", 8, "-n", 2, "-r", 1, "--max-model-len", 64)
        self.assertEqual([test["test"] for test in found["tests"]], ["pp8", "tg2"])

    def test_throughput(self):
        found = bench_json("throughput", MODEL, "--num-prompts", 12, "--input-len", 20, "--output-len", 5,
                           "--random-range-ratio", 0.5, "--seed", 3)
        self.assertEqual(found["num_requests"], 12)
        self.assertTrue(12 * 10 <= found["total_input_tokens"] <= 12 * 30, found["total_input_tokens"])
        self.assertEqual(found["finished_requests"], 12)
        # Every step reads the weights once; the steps are at least those of one answer.
        self.assertGreaterEqual(found["num_steps"], 5)
        for key in ("requests_per_second", "weights_gb_per_second", "bandwidth_percent", "gflops", "peak_percent"):
            self.assertGreater(found[key], 0, key)
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as trace:
            trace.write("TIMESTAMP,ContextTokens,GeneratedTokens\n1,10,2\n2,4000,2\n3,12,3\n")
            trace.flush()
            found = bench_json("throughput", MODEL, "--trace", trace.name)
            self.assertEqual((found["num_requests"], found["skipped_requests"]), (2, 1))
            self.assertEqual(found["total_output_tokens"], 5)
            self.assertEqual(found["total_input_tokens"], 22)
            text = bench("throughput", MODEL, "--trace", trace.name).stdout
            self.assertIn("Skipped: 1 of 3", text)
            self.assertRegex(text, r"Throughput: [\d.]+ requests/s, [\d.]+ total tokens/s, [\d.]+ output tokens/s")
            self.assertRegex(text, r"Steps: \d+, weights .* of memory.* of peak")
            trace.write("4,many,3\n")
            trace.flush()
            self.assertIn(f"{trace.name}:5: 'many'", error_line("throughput", "--trace", trace.name))
        self.assertIn("no/such", error_line("throughput", "--trace", "/no/such.csv"))

    def test_help_and_wrong_usage(self):
        self.assertIn("throughput", bench("--help").stdout)
        for mode in ("serve", "latency", "throughput"):
            self.assertIn("--save", bench(mode, "--help").stdout)
        for args in (("serve", "-p", 5), ("-n", 3, "latency"), ("serve", "--request-rate", "fast"), ("-p", 0, "-n", 0),
                     ("serve", "--request-rate", 0), ("serve", "--concurrency", 2, "--request-rate", 3),
                     ("serve", "--burstiness", 2), ("serve", "--trace", "x.csv", "--input-len", 3),
                     ("throughput", "--trace", "x.csv", "--input-len", 3), ("latency", "--batch-size", 0),
                     ("serve", "--api-key", "a\r\nb: c")):
            error_line(*args, code=2)

    def test_values_out_of_range_are_named_with_what_is_allowed(self):
        whole = "is not a whole number from"
        cases = {("-p", -5): f"--n-prompt: '-5' {whole} 0 to 16777216", ("-p", "1,x"): f"--n-prompt: 'x' {whole} 0",
                 ("-b", 0): f"--batch: '0' {whole} 1 to 65536", ("-r", 0): f"--repetitions: '0' {whole} 1",
                 ("-n", "9" * 20): f"'{'9' * 20}' {whole} 0", ("-d", "1e3"): f"--depth: '1e3' {whole} 0",
                 ("-t", 99999): f"--threads: '99999' {whole} 0 to",
                 ("latency", "-t", 99999): "for each core that this process may use",
                 ("latency", "--num-iters", "x"): f"--num-iters: 'x' {whole} 1 to 1000000",
                 ("throughput", "--random-range-ratio", 2): "--random-range-ratio: '2' is not a number from 0 to 1",
                 ("serve", "--timeout", 0): "--timeout: '0' is not a number from 0.001 to 1000000",
                 ("serve", "--seed", -1): "--seed: '-1' is not a whole number of at least 0"}
        for args, message in cases.items():
            line = error_line(*args, code=2)
            self.assertIn(message, line)
            self.assertLess(len(line), 160)

    def test_options_that_would_change_nothing(self):
        cases = {("-d", 5, "-n", 0): ("--depth 5", "--n-gen 0"),
                 ("-b", 8, "--max-num-seqs", 4): ("--max-num-seqs 4", "8 of --batch"),
                 ("latency", "--batch-size", 8, "--max-num-seqs", 4): ("--max-num-seqs 4", "8 of --batch-size"),
                 ("serve", "--prompt-form", "ids", "--endpoint", "chat"): ("--prompt-form ids", "--endpoint chat"),
                 ("serve", "--num-prefixes", 3): ("--num-prefixes 3", "--random-prefix-len 0"),
                 ("serve", "--burstiness", 2, "--request-rate", "inf"): ("--burstiness 2", "--request-rate inf"),
                 ("serve", "--max-concurrency", 0): ("--max-concurrency 0", "--concurrency"),
                 ("--no-prefix-cache",): ("--no-prefix-cache",), ("--chat-template", "x"): ("--chat-template",),
                 ("throughput", "--max-queue", 3): ("--max-queue",)}
        for args, words in cases.items():
            line = error_line(*args, code=2)
            for word in words:
                self.assertIn(word, line)

    def test_modes_with_a_slip(self):
        slips = {"serv": "serve", "sreve": "serve", "latancy": "latency", "throughputs": "throughput"}
        for typed, meant in slips.items():
            self.assertIn(f"did you mean sluice bench {meant}?", error_line(typed, code=2))
        self.assertIn("nor a mode of sluice bench (serve, latency, throughput)", error_line("quick", code=2))
        self.assertIn("no such file", error_line("serv.gguf"))
        self.assertIn("takes no model file", error_line("serve", "a.gguf", code=2))
        self.assertIn("one model", error_line("latency", "a.gguf", "b.gguf", code=2))

    def test_ctrl_c_reports_what_is_done(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "report.json")
            modes = {("-p", 0, "-n", 64, "-r", 1000000): "Interrupted: 1 of 1 tests",
                     ("latency", "--num-iters", 1000000): "of 1000000 iterations are done",
                     ("throughput", "--num-prompts", 20000, "--output-len", 500): "of 20000 requests are done"}
            for args, message in modes.items():
                path.write_text("before")
                self.assertIn(message, interrupted(*args, "--save", path, after="model   "))
                self.assertTrue(json.loads(path.read_text())["interrupted"])
                self.assertEqual(os.listdir(folder), ["report.json"])
            throughput = json.loads(path.read_text())
            self.assertGreater(throughput["total_output_tokens"], 0)
            self.assertLess(throughput["finished_requests"], 20000)

    def test_save(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "report.json")
            shown = bench("-p", 8, "-n", 0, "-r", 1, "--save", path).stdout
            self.assertIn(str(path), shown)
            self.assertEqual(json.loads(path.read_text())["tests"][0]["test"], "pp8")
            missing = pathlib.Path(folder, "none", "report.json")
            self.assertIn("make its folder first", error_line("-p", 8, "-n", 0, "--save", missing))
            self.assertIn("it is a folder", error_line("-p", 8, "-n", 0, "--save", folder))
            # A run that fails leaves what was there, or nothing.
            path.write_text("before")
            error_line("-p", 4000, "-n", 0, "--save", path)
            self.assertEqual(path.read_text(), "before")
            error_line("-p", 4000, "-n", 0, "--save", pathlib.Path(folder, "new.json"))
            self.assertEqual(os.listdir(folder), ["report.json"])
            # Links stay links, and what is no plain file is written as it is.
            link = pathlib.Path(folder, "link.json")
            link.symlink_to(path)
            bench("-p", 8, "-n", 0, "-r", 1, "--save", link)
            self.assertTrue(link.is_symlink())
            self.assertIn("tests", json.loads(path.read_text()))
            bench("-p", 8, "-n", 0, "-r", 1, "--save", "/dev/null")
            self.assertFalse(pathlib.Path("/dev/null").is_file())


class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.url = f"http://127.0.0.1:{cls.port}"
        cls.server = subprocess.Popen([BINARY, "serve", "--model", MODEL, "--port", str(cls.port), "--log-level",
                                       "error", "--api-key", "secret"], stdout=subprocess.DEVNULL)
        for _ in range(400):
            assert cls.server.poll() is None
            try:
                connection = http.client.HTTPConnection("127.0.0.1", cls.port, timeout=5)
                connection.request("GET", "/ready")
                connection.getresponse().read()
                connection.close()
                return
            except OSError:
                time.sleep(0.05)

    @classmethod
    def tearDownClass(cls):
        cls.server.terminate()
        cls.server.wait(20)

    def load(self, *args, **more):
        return bench_json("serve", "--url", self.url, "--api-key", "secret", *args, **more)

    def test_closed_loop(self):
        found = self.load("--concurrency", 4, "--num-prompts", 20, "--random-input-len", 30, "--random-output-len", 10,
                          "--ignore-eos", "--goodput", "ttft:100000", "e2el:100000", "--seed", 5)
        self.assertEqual((found["completed"], found["failed"], found["errors"]), (20, 0, []))
        self.assertEqual(found["prompts"], "ids")
        # The lengths are exact, but for the model's beginning token.
        self.assertIn(found["total_input_tokens"], (600, 620))
        self.assertEqual(found["total_output_tokens"], 200)
        self.assertLessEqual(found["max_concurrent_requests"], 4)
        self.assertAlmostEqual(found["request_goodput"], found["request_throughput"])
        self.assertAlmostEqual(found["output_throughput"], 200 / found["duration"], places=6)
        for key in LATENCIES + ["client", "model", "seed", "url"]:
            self.assertIn(key, found)
        self.assertNotIn("cpu", found)
        self.assertEqual(found["client"]["threads"], 1)
        self.assertEqual(found["model"], "stories260K")
        self.assertEqual((found["interrupted"], found["unfinished"], found["short_answers"]), (False, 0, 0))
        self.assertTrue(found["server_version"])
        # This server was not told to report cached tokens.
        self.assertIsNone(found["cached_input_tokens"])
        self.assertGreaterEqual(found["max_output_tokens_per_s"], found["output_throughput"])
        self.assertLessEqual(found["median_ttft_ms"], found["median_e2el_ms"])

    def test_open_loop_chat_and_report(self):
        args = ("--request-rate", 200, "--num-prompts", 30, "--input-len", 60, "--output-len", 5, "--seed", 1)
        found = self.load(*args, "--endpoint", "chat", "--ignore-eos")
        self.assertEqual((found["completed"], found["prompts"], found["request_rate"]), (30, "text", 200))
        self.assertTrue(30 * 50 <= found["total_input_tokens"] <= 30 * 70, found["total_input_tokens"])
        text = bench("serve", "--url", self.url, *args, "--burstiness", 0.5, "--max-concurrency", 3,
                     "--percentiles", "90,99", "--goodput", "ttft:0.000001", env={"SLUICE_API_KEY": "secret"}).stdout
        for line in ("Serving Benchmark Result", "client  sluice ", "Successful requests:                     30",
                     "P90 ITL (ms):", "Request goodput (req/s):                 0.00", "gamma arrivals of shape 0.5",
                     "Maximum request concurrency:             3"):
            self.assertIn(line, text)

    def test_all_at_once_with_prefixes(self):
        found = self.load("--request-rate", "inf", "--num-prompts", 40, "--random-prefix-len", 64, "--num-prefixes", 2,
                          "--input-len", 8, "--output-len", 3, "--ignore-eos", "--random-range-ratio", 0.5)
        self.assertEqual(found["completed"], 40)
        self.assertTrue(40 * 68 <= found["total_input_tokens"] <= 40 * 77)

    def test_trace_and_refused_requests(self):
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as trace:
            trace.write("TIMESTAMP,ContextTokens,GeneratedTokens\n"
                        "2023-11-16 18:15:46.68,20,4\n2023-11-16 18:15:47.68,3000,4\n"
                        "2023-11-16 18:15:48.68,30,5\n2023-11-16 18:15:49.68,30,5\n")
            trace.flush()
            done = bench("serve", "--url", self.url, "--api-key", "secret", "--trace", trace.name, "--trace-speed", 10,
                         "--num-prompts", 3, "--ignore-eos", "--json")
            found = json.loads(done.stdout)
            self.assertEqual((found["completed"], found["failed"], found["total_output_tokens"]), (2, 1, 9))
            self.assertGreaterEqual(found["duration"], 0.2)
            self.assertEqual(found["errors"][0]["count"], 1)
            self.assertIn("HTTP 400", found["errors"][0]["message"])
            self.assertIn("1 of 3 requests are longer", done.stderr)

    def test_ctrl_c(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "report.json")
            text = interrupted("serve", "--url", self.url, "--api-key", "secret", "--num-prompts", 1000000,
                               "--random-input-len", 30, "--random-output-len", 8, "--ignore-eos", "--save", path,
                               after="load    ")
            found = json.loads(path.read_text())
            self.assertIn("Serving Benchmark Result, interrupted", text)
            self.assertTrue(found["interrupted"])
            self.assertGreater(found["completed"], 0)
            self.assertEqual(found["completed"] + found["unfinished"], 1000000)
            self.assertEqual((found["failed"], found["errors"]), (0, []))
            self.assertIn(f"Interrupted: {found['unfinished']} of 1000000 requests were cut off or not sent", text)
            self.assertEqual(os.listdir(folder), ["report.json"])

    def test_it_says_what_is_wrong(self):
        self.assertIn("--api-key", error_line("serve", "--url", self.url))
        self.assertIn("nobody", error_line("serve", "--url", self.url, "--api-key", "secret", "--model", "nobody"))
        nobody = f"http://127.0.0.1:{free_port()}"
        self.assertRegex(error_line("serve", "--url", nobody), f"cannot reach {nobody}.*refused")
        self.assertIn("no URL", error_line("serve", "--url", "http://a b"))
        self.assertIn("--goodput", error_line("serve", "--url", self.url, "--goodput", "speed:3"))
        self.assertIn("make its folder first", error_line("serve", "--url", self.url, "--save", "/no/such/x.json"))


class OtherServers(unittest.TestCase):
    def start(self, **attributes):
        Fake.streams, Fake.prompts = 0, []
        handler = type("Handler", (Fake,), attributes)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.handle_error = lambda *_: None  # clients that hang up are what some tests are about
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def load(self, url, *args, code=0):
        return bench("serve", "--url", url, "--num-prompts", 6, "--concurrency", 2, "--output-len", 4, *args, code=code)

    def test_words_and_counted_pieces(self):
        done = self.load(self.start())
        self.assertIn("counts no prompt tokens", done.stderr)
        self.assertIn("Total generated tokens:                  24", done.stdout)
        self.assertIn("Note: 6 answers came without a usage count", done.stdout)

    def test_words_by_the_servers_count(self):
        self.load(self.start(with_usage=True), "--input-len", 105, "--num-warmups", 0)
        # 5 tokens besides and 2 a word, so 105 tokens are 50 words.
        self.assertEqual({len(prompt.split()) for prompt in Fake.prompts}, {50})
        self.assertEqual(len(set(Fake.prompts)), 6)

    def test_answers_that_end_early(self):
        url = self.start(stops_after=3)
        self.assertIn("Note: 6 of 6 answers ended before the tokens asked for; --ignore-eos asks the server to go on",
                      self.load(url).stdout)
        self.assertIn("although --ignore-eos was sent along", self.load(url, "--ignore-eos").stdout)
        self.assertNotIn("asked for;", self.load(self.start(stops_after=4)).stdout)

    def test_what_is_not_told_is_unknown(self):
        text = self.load(self.start()).stdout
        self.assertIn("Input tokens from the prefix cache:      unknown", text)
        self.assertIn("model fake, version 1.2.3", text)
        self.assertIn("peak arithmetic are unknown: the server does not tell its weights", text)
        meta = {"n_params": 1000000, "size": 600000}
        self.assertIn("does not count its steps", self.load(self.start(meta=meta)).stdout)
        found = json.loads(self.load(self.start(), "--json").stdout)
        for key in ("cached_input_tokens", "bandwidth_percent", "peak_percent", "limits"):
            self.assertIsNone(found[key], key)
        self.assertIn("weights", found["shares_unknown_because"])

    def test_shares_of_a_server_that_tells_its_weights_and_steps(self):
        url = self.start(meta={"n_params": 1000000, "size": 600000}, counts_steps=True)
        found = json.loads(self.load(url, "--json").stdout)
        self.assertIsNone(found["shares_unknown_because"])
        # Ten steps of a token for each of the six requests.
        self.assertAlmostEqual(found["gflops"] / found["weights_gb_per_second"], 2e6 / 6e5, places=3)
        self.assertAlmostEqual(found["bandwidth_percent"],
                               100 * found["weights_gb_per_second"] / found["limits"]["read_gb_per_second"], places=6)
        self.assertLessEqual(found["weights_gb_per_second"], 1e-9 * 60 * 600000 / found["duration"])
        self.assertRegex(self.load(url).stdout, r"Server: weights .* of memory.* of peak.*runs here")

    def test_ctrl_c_while_the_server_is_slow(self):
        # One warm-up and three answers, then nothing more.
        url = self.start(is_slow=True)
        begin = time.monotonic()
        text = interrupted("serve", "--url", url, "--num-prompts", 6, "-c", 2, "--output-len", 4, after="load    ")
        self.assertLess(time.monotonic() - begin, 20)
        self.assertIn("Successful requests:                     3", text)
        self.assertIn("Interrupted: 3 of 6 requests were cut off or not sent", text)

    def test_failures_are_counted_by_kind(self):
        done = self.load(self.start(fails_from=4))
        self.assertIn("Successful requests:                     3", done.stdout)
        self.assertIn("Failed, 3 times: HTTP 503: overloaded, try in 5 s", done.stdout)
        url = self.start(fails_from=0, with_usage=True)
        self.assertIn("the warm-up request failed: HTTP 503", error_line("serve", "--url", url))
        self.load(self.start(fails_from=0), "--num-warmups", 0, code=1)

    def test_a_stream_that_breaks_off(self):
        done = self.load(self.start(breaks_off=True), "--num-warmups", 0, code=1)
        self.assertIn("Failed, 6 times: the server closed the connection before the answer was complete", done.stdout)

    def test_an_answer_too_large_is_no_server_out_of_reach(self):
        url = self.start(endless_list=True)
        line = error_line("serve", "--url", url)
        self.assertIn(f"{url}/v1/models: the answer is too large", line)
        self.assertNotIn("cannot reach", line)

    def test_a_server_that_says_nothing(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            self.assertIn("no complete answer within 0.5 s", error_line("serve", "--url", url, "--timeout", 0.5))


class ModelMaker(unittest.TestCase):
    def test_without_numpy(self):
        script = str(ROOT / "benchmarks/make_q4k.py")
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "numpy.py").write_text("raise ImportError('none here')\n")
            run = lambda *args: subprocess.run([sys.executable, script, *args], capture_output=True, text=True,
                                               timeout=60, env={**os.environ, "PYTHONPATH": folder})
            done = run("--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn("--vocab", done.stdout)
            done = run("--vocab", MODEL, "-o", str(pathlib.Path(folder, "model.gguf")))
            self.assertEqual(done.returncode, 1)
            self.assertEqual(len(done.stderr.splitlines()), 1)
            self.assertIn("python3-numpy", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
