#!/usr/bin/env python3
"""The command line of the built binary: what it prints and how it exits. cli.py SLUICE_BINARY"""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

BINARY = sys.argv.pop(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = str(ROOT / "models/stories260K/stories260K.gguf")
SHARED = pathlib.Path(os.environ.get("SLUICE_TEST_DATA") or ROOT.parent / "shared/data")


def sluice(*args, text="", code=0, env=None):
    done = subprocess.run([BINARY, *map(str, args)], input=text, capture_output=True, text=True, timeout=120,
                          env={**os.environ, **(env or {})})
    assert done.returncode == code, (args, done.returncode, done.stdout[-500:], done.stderr[-500:])
    return done.stdout if code == 0 else done.stderr


class Cli(unittest.TestCase):
    def test_help_and_version(self):
        text = sluice("--help")
        for command in ("serve", "run", "bench", "perplexity", "tokenize", "template", "inspect", "info"):
            self.assertIn(command, text)
            self.assertIn("--", sluice(command, "--help"))
        self.assertRegex(sluice("--version"), r"^sluice \d+\.\d+\.\d+")

    def test_usage_errors_exit_with_2(self):
        for args in ((), ("fly",), ("serve", "--no-such-flag"), ("bench", "-p", "many"),
                     ("serve", "--kv-cache-memory", "lots")):
            text = sluice(*args, code=2)
            self.assertEqual(len(text.strip().splitlines()), 1, text)

    def test_failures_exit_with_1_and_one_line(self):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as bad:
            bad.write(b"GGUF\x03\0\0\0")
            bad.flush()
            for args in (("inspect", "/no/such/file"), ("inspect", bad.name), ("run", bad.name, "hello"),
                         ("tokenize", "/no/such/folder"), ("serve", "--model", bad.name)):
                text = sluice(*args, code=1)
                self.assertEqual(len([line for line in text.splitlines() if line.startswith("sluice: ")]), 1, text)
                self.assertIn(args[-1] if args[0] != "run" else args[1], text)

    def test_unknown_environment_variable(self):
        self.assertIn("SLUICE_ISO", sluice("info", env={"SLUICE_ISO": "x"}, code=1))

    def test_info(self):
        self.assertIn("scalar", sluice("info"))
        self.assertIn("isa", json.loads(sluice("info", "--json")))
        self.assertEqual(json.loads(sluice("info", "--json", env={"SLUICE_ISA": "scalar"}))["isa"], "scalar")

    def test_tokenize(self):
        self.assertEqual(sluice("tokenize", MODEL, text="Once upon a time").split()[0], "1")
        ids = sluice("tokenize", MODEL, "--no-special", text="Once upon a time")
        self.assertEqual(sluice("tokenize", MODEL, "--decode", text=ids).strip(), "Once upon a time")
        found = json.loads(sluice("tokenize", MODEL, "--json", text="Once"))
        self.assertEqual(found["count"], len(found["ids"]))

    def test_template(self):
        with tempfile.TemporaryDirectory() as folder:
            template, request = pathlib.Path(folder, "t.jinja"), pathlib.Path(folder, "r.json")
            template.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}")
            request.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}))
            self.assertEqual(sluice("template", template, "--input", request, "--now", "2024-07-26T00:00:00Z"),
                             "<user>hi2024")
            template.write_text("a\n{{ raise_exception('no') }}")
            self.assertIn("no", sluice("template", template, "--input", request, code=1))
            template.write_text("a\n{% if %}")
            self.assertIn("line 2", sluice("template", template, "--input", request, code=1))

    def test_inspect(self):
        text = sluice("inspect", MODEL)
        self.assertIn("llama.block_count", text)
        self.assertIn("token_embd.weight", text)
        self.assertEqual(len(json.loads(sluice("inspect", MODEL, "--json"))["tensors"]), 48)

    def test_run_is_the_known_story(self):
        text = sluice("run", MODEL, "Once upon a time", "--raw", "--temperature", 0, "--max-tokens", 200)
        self.assertIn("there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, "
                      "red ball. She wanted to play with it, but it was too high.", text)

    def test_run_ends_with_the_story(self):
        text = sluice("run", MODEL, "Once upon a time", "--temperature", 0)
        self.assertTrue(text.rstrip().endswith('"Thank you, Lily! You are a good friend."'), text[-200:])

    def test_bad_token_ids(self):
        self.assertIn("'x'", sluice("tokenize", MODEL, "--decode", text="1 403 x", code=1))

    def test_run_reads_a_pipe(self):
        self.assertTrue(sluice("run", MODEL, "--raw", "--temperature", 0, "--max-tokens", 5, text="Once upon").strip())

    def test_bench(self):
        found = json.loads(sluice("bench", "-p", 32, "-n", 8, "-r", 2, "-b", "1,2", "--json"))
        self.assertEqual([row["test"] for row in found["tests"]], ["pp32", "tg8", "pp32@b2", "tg8@b2"])
        self.assertTrue(all(row["tokens_per_second"] > 0 for row in found["tests"]))

    def test_perplexity(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
            text.write("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " * 20)
            text.flush()
            figures = [json.loads(sluice("perplexity", MODEL, "--file", text.name, "--ctx-size", 128, "--json",
                                         env={"SLUICE_ISA": isa}))["perplexity"] for isa in ("scalar", "avx2")]
        self.assertLess(figures[0], 4)
        self.assertLess(abs(figures[0] - figures[1]) / figures[0], 0.003)

    def test_hugging_face_folder_tells_a_story(self):
        folder = SHARED / "llm/TinyStories-656K-hf"
        if not folder.exists():
            self.skipTest("needs test data llm/TinyStories-656K-hf; set SLUICE_TEST_DATA")
        text = sluice("run", folder, "Once upon a time", "--raw", "--temperature", 0, "--max-tokens", 120)
        self.assertIn("Lily", text)
        self.assertGreater(len(set(text.split())), 25, text)


class Serve(unittest.TestCase):
    def start(self, *args):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = subprocess.Popen([BINARY, "serve", "--port", str(self.port), "--log-level", "warning", *args],
                                       stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.server.stdout.close)
        self.addCleanup(self.server.kill)
        for _ in range(200):
            try:
                if self.ask("GET", "/ready")[0] in (200, 401):
                    return
            except OSError:
                pass
            self.assertIsNone(self.server.poll())
            time.sleep(0.05)
        self.fail("the server did not start")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        return reply.status, data

    def test_sigterm_lets_running_requests_finish(self):
        self.start("--drain-timeout", "20")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(
            {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 4}), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        reply.readline()
        self.server.send_signal(signal.SIGTERM)
        rest = reply.read()
        connection.close()
        self.assertIn(b"data: [DONE]", rest)
        self.assertEqual(rest.count(b'"finish_reason":"length"'), 4)
        self.assertEqual(self.server.wait(20), 0)

    def test_it_says_how_to_try_it(self):
        self.start()
        self.server.send_signal(signal.SIGTERM)
        text = self.server.communicate(timeout=20)[0]
        self.assertIn("curl", text)
        self.assertIn(str(self.port), text)
        self.assertIn("built-in", text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
