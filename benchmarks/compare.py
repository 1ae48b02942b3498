#!/usr/bin/env python3
"""Sluice beside llama.cpp on the same model, taking turns in one run, because machines are noisy and ratios are not.

  PEERS=FOLDER_WITH_NODE_MODULES benchmarks/compare.py [--rounds 3] [--prompt 512] [--generate 64] [--sequences 1,8] MODEL.gguf ...

PEERS is a folder in which `npm install node-llama-cpp` was run; --peer-script names the program that drives it (it prints
one JSON line with prefill_tok_s and decode_tok_s). Prints a Markdown table: medians over the rounds and their ratio."""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("models", nargs="+")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--prompt", type=int, default=512)
parser.add_argument("--generate", type=int, default=64)
parser.add_argument("--sequences", default="1")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--binary", default=str(ROOT / "build/release/sluice"))
parser.add_argument("--peer-script", default=str(ROOT.parent / "shared/tools/peers/llama_node.mjs"))
args = parser.parse_args()


def sluice(model, sequences):
    """Prefill and decode tokens/s; decode starts after the prompt, as the peer's does."""
    out = subprocess.run([args.binary, "bench", model, "-p", str(args.prompt), "-n", str(args.generate), "-d", str(args.prompt),
                          "-b", str(sequences), "-r", "1", "-t", str(args.threads), "--json"],
                         check=True, capture_output=True, text=True).stdout
    prefill, decode = json.loads(out)["tests"]
    return prefill["tokens_per_second"], decode["tokens_per_second"]


def peer(model, sequences):
    out = subprocess.run(["node", args.peer_script, model, str(args.prompt), str(args.generate), str(sequences)],
                         check=True, capture_output=True, text=True).stdout
    found = json.loads(out.strip().splitlines()[-1])
    return found["prefill_tok_s"], found["decode_tok_s"]


have_peer = os.path.isfile(args.peer_script) and os.path.isdir(os.path.join(os.environ.get("PEERS", "/"), "node_modules/node-llama-cpp"))
if not have_peer:
    print("SKIPPED llama.cpp: set PEERS to a folder with node_modules/node-llama-cpp, and --peer-script", file=sys.stderr)
print("| model | test | sluice tok/s | llama.cpp tok/s | ratio |\n|---|---|---|---|---|")
for model in args.models:
    for sequences in map(int, args.sequences.split(",")):
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(sluice(model, sequences))
            if have_peer:
                theirs.append(peer(model, sequences))
        for index, test in enumerate((f"prefill {args.prompt}", f"decode {args.generate}")):
            a = statistics.median(row[index] for row in ours)
            b = statistics.median(row[index] for row in theirs) if theirs else None
            name = f"{test}, {sequences} sequence{'s' if sequences > 1 else ''}"
            print(f"| {os.path.basename(model)} | {name} | {a:.1f} | {b if b is None else f'{b:.1f}'} | "
                  f"{'' if b is None else f'{a / b:.2f}'} |", flush=True)
