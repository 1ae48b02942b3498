#!/usr/bin/env python3
"""Log-probabilities over HTTP against llama.cpp's: echo, token-id prompts and logprobs of /v1/completions.

logprobs.py SLUICE_BINARY      needs the test data arch, quant and the make_tiny_arch.py beside them ($SLUICE_TEST_DATA)"""
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

BINARY = sys.argv[1]
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = pathlib.Path(os.environ.get("SLUICE_TEST_DATA") or ROOT.parent / "shared/data")
MAKER = DATA.parent / "tools/make_tiny_arch.py"
if not (DATA / "quant/expected.json").exists() or not MAKER.exists():
    print("SKIPPED: needs test data quant, arch and make_tiny_arch.py; set SLUICE_TEST_DATA")
    sys.exit(77)


def log_probabilities(model, ids):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([BINARY, "serve", "--model", str(model), "--port", str(port), "--log-level", "error"],
                              stdout=subprocess.DEVNULL)
    try:
        for _ in range(400):
            assert server.poll() is None, f"{model}: the server did not start"
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/v1/completions", json.dumps(
                    {"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}))
                break
            except OSError:
                time.sleep(0.02)
        reply = json.loads(connection.getresponse().read())
        connection.close()
        return reply["choices"][0]["logprobs"]["token_logprobs"][:len(ids)]
    finally:
        server.terminate()
        server.wait(20)


passed = failed = 0
with tempfile.TemporaryDirectory() as folder:
    for name in ("arch", "quant"):
        expected = json.loads((DATA / name / "expected.json").read_text())
        for model, row in expected["models"].items():
            if name == "arch":
                subprocess.run(["/usr/bin/python3", str(MAKER), folder, model], check=True, stdout=subprocess.DEVNULL)
            path = pathlib.Path(folder if name == "arch" else DATA / "quant", model + ".gguf")
            found = log_probabilities(path, expected["ids"])
            assert found[0] is None and len(found) == len(row["token_logprobs"])
            gaps = [abs(a - b) for a, b in zip(found[1:], row["token_logprobs"][1:])]
            mean = sum(gaps) / len(gaps)
            # llama.cpp rounds activations for quantised weights; a few positions differ by more than the mean.
            is_float = name == "arch" or model.rsplit("-", 1)[1] in ("F32", "F16", "BF16")
            ok = mean < 0.05 and max(gaps) < 0.1 if is_float else mean < 0.2
            passed, failed = passed + ok, failed + (not ok)
            print(f"{'ok    ' if ok else 'FAILED'} {model:20} mean {mean:.4f} max {max(gaps):.4f}")
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
