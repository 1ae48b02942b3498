#!/usr/bin/env python3
"""Concurrent streams with random cancels against the built binary.

soak.py SLUICE_BINARY [--seconds 30] [--streams 64] [--seed 1]

Passes if every request that was not cancelled ended as asked, nothing runs or waits afterwards, every page is free (the
engine itself checks its page accounting whenever it is idle) and the resident memory stopped growing."""
import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--seconds", type=float, default=30)
parser.add_argument("--streams", type=int, default=64)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
# A small KV memory, so that sequences are preempted and cached pages evicted all the time.
server = subprocess.Popen([args.binary, "serve", "--port", str(port), "--log-level", "warning", "--kv-cache-memory", "4M",
                           "--max-num-seqs", "32"])
counts = {"finished": 0, "cancelled": 0, "refused": 0}
problems, lock = [], threading.Lock()


def get(path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text


def metric(name):
    for line in get("/metrics")[1].splitlines():
        if line.startswith(name):
            return float(line.rsplit(" ", 1)[1])
    raise KeyError(name)


def resident_kb():
    with open(f"/proc/{server.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def one_request(r):
    want, n = r.randrange(1, 120), r.choice([1, 1, 1, 2, 4])
    body = {"model": "", "prompt": "Once upon a time " * r.randrange(1, 8) + str(r.randrange(5)), "max_tokens": want,
            "ignore_eos": True, "temperature": r.choice([0, 1]), "n": n, "stream": r.random() < 0.8,
            "stream_options": {"include_usage": True}}
    if not body["stream"]:
        del body["stream_options"]
    del body["model"]
    cancel_after = r.randrange(0, 30) if r.random() < 0.4 else None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        if cancel_after == 0:
            return "cancelled"
        reply = connection.getresponse()
        if reply.status in (429, 503):
            return "refused"
        if reply.status != 200:
            raise AssertionError(f"{reply.status} {reply.read()[:200]}")
        if not body["stream"]:
            usage = json.loads(reply.read())["usage"]
            assert usage["completion_tokens"] == want * n, usage
            return "finished"
        usage, events, done = None, 0, False
        for line in reply:
            if not line.startswith(b"data: "):
                continue
            events += 1
            if cancel_after is not None and events > cancel_after:
                return "cancelled"
            if line.strip() == b"data: [DONE]":
                done = True
                break
            usage = json.loads(line[6:]).get("usage") or usage
        assert done and usage and usage["completion_tokens"] == want * n, (done, usage, want, n)
        return "finished"
    finally:
        connection.close()


def stream(index, until):
    r = random.Random(args.seed * 1000 + index)
    while time.monotonic() < until:
        try:
            outcome = one_request(r)
            with lock:
                counts[outcome] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the soak reports it
            with lock:
                problems.append(f"{type(error).__name__}: {error}")


def check(condition, text):
    if not condition:
        problems.append(text)


try:
    for _ in range(200):
        try:
            if get("/ready")[0] == 200:
                break
        except OSError:
            time.sleep(0.05)
    begin = time.monotonic()
    memory = []
    threads = [threading.Thread(target=stream, args=(i, begin + args.seconds)) for i in range(args.streams)]
    for thread in threads:
        thread.start()
    while time.monotonic() < begin + args.seconds:
        time.sleep(args.seconds / 10)
        memory.append(resident_kb())
    for thread in threads:
        thread.join(90)
        check(not thread.is_alive(), "a request is stuck")
    for _ in range(100):
        if metric("vllm:num_requests_running") == metric("vllm:num_requests_waiting") == 0:
            break
        time.sleep(0.05)
    check(metric("vllm:num_requests_running") == 0, "requests still run")
    check(metric("vllm:num_requests_waiting") == 0, "requests still wait")
    check(metric("vllm:kv_cache_usage_perc") == 0, "pages are lost")
    time.sleep(1.2)  # the engine checks its accounting when it is idle
    check(server.poll() is None, "the server died")
    check(memory[-1] < memory[len(memory) // 2] * 1.15 + 4096, f"memory grows: {memory} kB")
    print(f"preemptions {metric('vllm:num_preemptions'):.0f}, resident {memory[-1] / 1024:.0f} MB, {counts}")
    check(counts["finished"] > 50, "hardly anything finished")
finally:
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(20)
        check(code == 0, f"the server ended with {code} after SIGTERM")
    except subprocess.TimeoutExpired:
        server.kill()
        problems.append("the server did not stop")
for problem in problems[:10]:
    print("FAILED", problem)
print(f"{sum(counts.values())} passed, {len(problems)} failed")
sys.exit(1 if problems else 0)
