#!/usr/bin/env python3
"""`sluice bench` and its modes on the built-in model, `bench serve` against a real server and against broken ones.

bench.py SLUICE_BINARY"""
import http.client
import http.server
import json
import os
import pathlib
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
        self.reply(200, json.dumps({"data": [{"id": "fake"}]}) + " " * (17 << 20 if self.endless_list else 0))

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
        events = "".join('data: {"choices":[{"text":"a"}]}\n\n' for _ in range(body["max_tokens"]))
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
        text = bench("-p", 16, "-n", 4, "-r", 1).stdout
        for word in ("limits", "of memory", "of peak", "pp16", "tg4"):
            self.assertIn(word, text)

    def test_latency(self):
        found = bench_json("latency", MODEL, "--batch-size", 2, "--input-len", 16, "--output-len", 8, "--num-iters", 4,
                           "--num-iters-warmup", 1)
        self.assertEqual(len(found["latencies"]), 4)
        self.assertAlmostEqual(sum(found["latencies"]) / 4, found["avg_latency"], places=9)
        self.assertLessEqual(found["percentiles"]["10"], found["percentiles"]["99"])
        self.assertGreater(found["decode_tokens_per_second"], 0)
        self.assertIn("Avg latency:", bench("latency", "--batch-size", 1, "--output-len", 1, "--num-iters", 1).stdout)
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
        self.assertGreater(found["requests_per_second"], 0)
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

    def test_save(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "report.json")
            shown = bench("-p", 8, "-n", 0, "-r", 1, "--save", path).stdout
            self.assertIn(str(path), shown)
            self.assertEqual(json.loads(path.read_text())["tests"][0]["test"], "pp8")
            missing = pathlib.Path(folder, "none", "report.json")
            self.assertIn("make its folder first", error_line("-p", 8, "-n", 0, "--save", missing))


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


if __name__ == "__main__":
    unittest.main(verbosity=2)
