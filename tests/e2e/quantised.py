#!/usr/bin/env python3
"""A trained model in every weight type: each instruction set predicts a text as well as scalar does.

  quantised.py SLUICE [--types Q4_0,BF16,...] [--chunks N] [--keep FOLDER] [--table]

Widens TinyStories-656K with zeros from 128 to 256 inputs, so that the types with blocks of 256 fit (norm weights make
up for the wider mean), rounds its matrices to each type, and compares `sluice perplexity` of every instruction set, and
of weights that are not repacked, with scalar's: within 0.3 %. What 8-bit activations add is noise, and only a longer
text averages it out: 60 windows or more. Exit code 77 without the model. Needs numpy."""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

LIMIT = 0.003
WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 256, 512, 16, 8, 16, 2
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


def halves(x):
    return x.astype(np.float16).view(np.uint8).reshape(len(x), -1)


def nibbles(q):
    """[n, 32] codes to [n, 16] bytes: low halves are elements 0-15."""
    return (q[:, :16] | q[:, 16:] << 4).astype(np.uint8)


def fifths(q):
    return np.packbits((q >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def safe(x):
    return np.where(x == 0, 1, x)


def f16(x):
    return x.astype(np.float16).astype(np.float32)


def symmetric(x, bits):
    """x = d * (q - 2^(bits-1)) with the largest magnitude at one end."""
    zero = 1 << (bits - 1)
    most = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    d = f16(most / -zero)
    return d, np.clip(np.rint(x / safe(d)) + zero, 0, 2 * zero - 1).astype(np.int64)


def affine(x, bits):
    """x = d * q + m."""
    m = f16(x.min(1, keepdims=True))
    d = f16((x.max(1, keepdims=True) - m) / ((1 << bits) - 1))
    return d, m, np.clip(np.rint((x - m) / safe(d)), 0, (1 << bits) - 1).astype(np.int64)


def q4_0(x):
    d, q = symmetric(x, 4)
    return np.hstack([halves(d), nibbles(q)])


def q4_1(x):
    d, m, q = affine(x, 4)
    return np.hstack([halves(d), halves(m), nibbles(q)])


def q5_0(x):
    d, q = symmetric(x, 5)
    return np.hstack([halves(d), fifths(q), nibbles(q & 15)])


def q5_1(x):
    d, m, q = affine(x, 5)
    return np.hstack([halves(d), halves(m), fifths(q), nibbles(q & 15)])


def q8_0(x):
    d = f16(np.abs(x).max(1, keepdims=True) / 127)
    return np.hstack([halves(d), np.clip(np.rint(x / safe(d)), -127, 127).astype(np.int8).view(np.uint8)])


def iq4_codes(x):
    return np.abs(x[..., None] - IQ4).argmin(-1)


def iq4_nl(x):
    most = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    d = f16(most / -127)
    return np.hstack([halves(d), nibbles(iq4_codes(x / safe(d)))])


def sub_blocks(x, size):
    return x.reshape(len(x), 256 // size, size)


def signed_scales(s, limit):
    """Scales [n, subs] as d * integer in -limit..limit-1."""
    d = f16(np.abs(s).max(1, keepdims=True) / (limit - 1))
    return d, np.clip(np.rint(s / safe(d)), -limit, limit - 1).astype(np.int64)


def unsigned_scales(s, m, bits):
    """Scales and minima [n, subs] >= 0 as d * integer, dmin * integer."""
    top = (1 << bits) - 1
    d, dmin = f16(s.max(1, keepdims=True) / top), f16(m.max(1, keepdims=True) / top)
    round_to = lambda x, unit: np.rint(x / safe(unit)).clip(0, top).astype(np.int64)
    return d, dmin, round_to(s, d), round_to(m, dmin)


def k_affine(x, size, scale_bits, bits):
    b = sub_blocks(x, size)
    m = np.maximum(0, -b.min(2))
    s = (b.max(2) + m) / ((1 << bits) - 1)
    d, dmin, si, mi = unsigned_scales(s, m, scale_bits)
    scale, minimum = (d * si)[..., None], (dmin * mi)[..., None]
    q = np.clip(np.rint((b + minimum) / safe(scale)), 0, (1 << bits) - 1).astype(np.int64)
    return d, dmin, si, mi, q.reshape(len(x), 256)


def k_symmetric(x, size, limit, bits):
    b = sub_blocks(x, size)
    zero = 1 << (bits - 1)
    most = np.take_along_axis(b, np.abs(b).argmax(2)[..., None], 2)[..., 0]
    d, si = signed_scales(most / -zero, limit)
    scale = (d * si)[..., None]
    q = np.clip(np.rint(b / safe(scale)) + zero, 0, 2 * zero - 1).astype(np.int64)
    return d, si, q.reshape(len(x), 256)


def crumbs(q):
    """Two bits each: byte h * 32 + l holds elements h * 128 + j * 32 + l in bits 2j."""
    e = (q & 3).reshape(len(q), 2, 4, 32)
    return (e[:, :, 0] | e[:, :, 1] << 2 | e[:, :, 2] << 4 | e[:, :, 3] << 6).reshape(len(q), 64).astype(np.uint8)


def scales_k4(s, m):
    out = np.empty((len(s), 12), np.uint8)
    out[:, :4] = s[:, :4] | (s[:, 4:] >> 4) << 6
    out[:, 4:8] = m[:, :4] | (m[:, 4:] >> 4) << 6
    out[:, 8:] = (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return out


def nibbles_64(q):
    e = (q & 15).reshape(len(q), 4, 2, 32)
    return (e[:, :, 0] | e[:, :, 1] << 4).reshape(len(q), 128).astype(np.uint8)


def q2_k(x):
    d, dmin, s, m, q = k_affine(x, 16, 4, 2)
    return np.hstack([(s | m << 4).astype(np.uint8), crumbs(q), halves(d), halves(dmin)])


def q3_k(x):
    d, s, q = k_symmetric(x, 16, 32, 3)
    s = s + 32
    third = (q >> 2 & 1).reshape(len(q), 8, 32)
    hmask = sum(third[:, j] << j for j in range(8)).astype(np.uint8)
    scales = np.empty((len(x), 12), np.uint8)
    scales[:, :8] = (s[:, :8] & 15) | (s[:, 8:] & 15) << 4
    high = (s >> 4).reshape(len(x), 4, 4)
    scales[:, 8:] = sum(high[:, i] << 2 * i for i in range(4))
    return np.hstack([hmask, crumbs(q), scales, halves(d)])


def q4_k(x):
    d, dmin, s, m, q = k_affine(x, 32, 6, 4)
    return np.hstack([halves(d), halves(dmin), scales_k4(s, m), nibbles_64(q)])


def q5_k(x):
    d, dmin, s, m, q = k_affine(x, 32, 6, 5)
    fifth = (q >> 4).reshape(len(q), 8, 32)
    qh = sum(fifth[:, j] << j for j in range(8)).astype(np.uint8)
    return np.hstack([halves(d), halves(dmin), scales_k4(s, m), qh, nibbles_64(q)])


def q6_k(x):
    d, s, q = k_symmetric(x, 16, 128, 6)
    low = (q & 15).reshape(len(q), 2, 2, 64)
    top = (q >> 4).reshape(len(q), 2, 4, 32)
    ql = (low[:, :, 0] | low[:, :, 1] << 4).reshape(len(q), 128).astype(np.uint8)
    qh = sum(top[:, :, j] << 2 * j for j in range(4)).reshape(len(q), 64).astype(np.uint8)
    return np.hstack([ql, qh, s.astype(np.int8).view(np.uint8), halves(d)])


def iq4_xs(x):
    b = sub_blocks(x, 32)
    most = np.take_along_axis(b, np.abs(b).argmax(2)[..., None], 2)[..., 0]
    d, s = signed_scales(most / -127, 32)
    q = iq4_codes(b / safe((d * s)[..., None]))
    s = s + 32
    low = ((s[:, 0::2] & 15) | (s[:, 1::2] & 15) << 4).astype(np.uint8)
    high = sum((s[:, i] >> 4) << 2 * i for i in range(8)).astype(np.uint16)
    qs = (q[:, :, :16] | q[:, :, 16:] << 4).astype(np.uint8).reshape(len(x), 128)
    return np.hstack([halves(d), high.view(np.uint8).reshape(len(x), 2), low, qs])


def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


# name: GGUF type number, block size, function from [blocks, size] to bytes
TYPES = {
    "F32": (0, 1, None), "F16": (1, 1, None), "BF16": (30, 1, None), "Q4_0": (2, 32, q4_0), "Q4_1": (3, 32, q4_1),
    "Q5_0": (6, 32, q5_0), "Q5_1": (7, 32, q5_1), "Q8_0": (8, 32, q8_0), "Q2_K": (10, 256, q2_k),
    "Q3_K": (11, 256, q3_k), "Q4_K": (12, 256, q4_k), "Q5_K": (13, 256, q5_k), "Q6_K": (14, 256, q6_k),
    "IQ4_NL": (20, 32, iq4_nl), "IQ4_XS": (23, 256, iq4_xs),
}


def encode(x, name):
    _, block, function = TYPES[name]
    if name == "F32":
        return x.astype(np.float32).tobytes()
    if name == "F16":
        return x.astype(np.float16).tobytes()
    if name == "BF16":
        return bf16(x).tobytes()
    return np.ascontiguousarray(function(x.astype(np.float32).reshape(-1, block))).tobytes()


def read_safetensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, info in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            assert info["dtype"] == "F32", info
            begin, end = info["data_offsets"]
            tensors[name] = np.frombuffer(data[8 + size + begin:8 + size + end], np.float32).reshape(info["shape"])
    return tensors


def widen(x, rows, columns):
    out = np.zeros((rows, columns), np.float32)
    out[:x.shape[0], :x.shape[1]] = x
    return out


def widened(tensors):
    """GGUF's names to [rows, columns], zeros where the model has nothing."""
    def norm(name):
        out = np.zeros(WIDTH, np.float32)  # the mean of squares is over twice as many, half of them zero
        out[:128] = tensors[name] * np.sqrt(0.5)
        return out

    def interleave(x, heads):  # rows of a head: (0, half, 1, half + 1, ...) as GGUF's llama has them
        return x.reshape(heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(x.shape)

    out = {"token_embd.weight": widen(tensors["lm_head.weight"], 2048, WIDTH),
           "output_norm.weight": norm("model.norm.weight")}
    for i in range(LAYERS):
        old, new = f"model.layers.{i}.", f"blk.{i}."
        get = lambda name: tensors[old + name + ".weight"]
        out[new + "attn_norm.weight"] = norm(old + "input_layernorm.weight")
        out[new + "ffn_norm.weight"] = norm(old + "post_attention_layernorm.weight")
        out[new + "attn_q.weight"] = widen(interleave(get("self_attn.q_proj"), 8), HEADS * HEAD_DIM, WIDTH)
        out[new + "attn_k.weight"] = widen(interleave(get("self_attn.k_proj"), 4), KV_HEADS * HEAD_DIM, WIDTH)
        out[new + "attn_v.weight"] = widen(get("self_attn.v_proj"), KV_HEADS * HEAD_DIM, WIDTH)
        out[new + "attn_output.weight"] = widen(get("self_attn.o_proj"), WIDTH, HEADS * HEAD_DIM)
        out[new + "ffn_gate.weight"] = widen(get("mlp.gate_proj"), FFN, WIDTH)
        out[new + "ffn_up.weight"] = widen(get("mlp.up_proj"), FFN, WIDTH)
        out[new + "ffn_down.weight"] = widen(get("mlp.down_proj"), WIDTH, FFN)
    return out


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def write_gguf(path, tensors, type_name):
    metadata = [("general.architecture", "llama"), ("general.name", "TinyStories-656K " + type_name),
                ("llama.context_length", 512), ("llama.embedding_length", WIDTH), ("llama.block_count", LAYERS),
                ("llama.feed_forward_length", FFN), ("llama.attention.head_count", HEADS),
                ("llama.attention.head_count_kv", KV_HEADS), ("llama.rope.dimension_count", HEAD_DIM),
                ("llama.rope.freq_base", 10000.0), ("llama.attention.layer_norm_rms_epsilon", 0.5e-6),
                ("llama.vocab_size", 2048)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata:
        head += string(key) + (struct.pack("<I", 8) + string(value) if isinstance(value, str) else
                               struct.pack("<If", 6, value) if isinstance(value, float) else
                               struct.pack("<II", 4, value))
    body = b""
    for name, x in tensors.items():
        kind = "F32" if x.ndim == 1 else type_name
        head += string(name) + struct.pack(f"<I{x.ndim}QIQ", x.ndim, *x.shape[::-1], TYPES[kind][0], len(body))
        body += encode(x, kind)
        body += b"\0" * (-len(body) % 32)
    head += b"\0" * (-len(head) % 32)
    path.write_bytes(head + body)


def write_f8(folder, source, tensors):
    """The model as it was, matrices in E4M3 with a scale each; the embedding stays F32."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0 ** -6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    values = np.where(codes & 127 == 127, np.inf, np.where(codes > 127, -values, values))
    order = np.argsort(values)
    order = order[np.isfinite(values[order])]
    middles = (values[order][1:] + values[order][:-1]) / 2
    folder.mkdir(exist_ok=True)
    header, body = {}, b""

    def add(name, dtype, shape, data):
        nonlocal body
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data

    plain = {name: x for name, x in tensors.items() if x.ndim == 1 or "embed" in name or "lm_head" in name}
    for name, x in plain.items():
        add(name, "F32", x.shape, x.tobytes())
    matrices = {name: x for name, x in tensors.items() if name not in plain}
    for name, x in matrices.items():
        add(name + "_scale", "F32", [1], np.float32(np.abs(x).max() / 448).tobytes())
    for name, x in matrices.items():
        nearest = order[np.searchsorted(middles, x / (np.abs(x).max() / 448))]
        add(name, "F8_E4M3", x.shape, nearest.astype(np.uint8).tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())


def find_data():
    here = pathlib.Path(__file__).resolve().parents[2]
    for root in (os.environ.get("SLUICE_TEST_DATA"), here.parent / "shared" / "data"):
        if root and (pathlib.Path(root) / "llm/TinyStories-656K-hf").is_dir():
            return pathlib.Path(root)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice")
    parser.add_argument("--types", default="F8_E4M3," + ",".join(TYPES), help="which of them; default: all")
    parser.add_argument("--chunks", default="60", help="windows of 256 tokens to predict")
    parser.add_argument("--keep", help="write the models here and keep them")
    parser.add_argument("--table", action="store_true", help="print every perplexity")
    args = parser.parse_args()
    data = find_data()
    if data is None:
        print("SKIPPED: no llm/TinyStories-656K-hf among the test data")
        sys.exit(77)
    source = data / "llm/TinyStories-656K-hf"
    text = data / "text/wikitext2-test.txt"

    def perplexity(model, isa, *flags):
        environment = dict(os.environ, SLUICE_ISA=isa)
        result = subprocess.run([args.sluice, "perplexity", str(model), "--file", str(text), "--tokenizer", str(source),
                                 "--chunks", args.chunks, "-c", "256", "--json", *flags],
                                env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{model} {isa}: {result.stderr}")
        return json.loads(result.stdout)["perplexity"]

    isas = json.loads(subprocess.run([args.sluice, "info", "--json"], capture_output=True, text=True).stdout)["fills"]
    tensors = read_safetensors(source / "model.safetensors")
    gguf_tensors = widened(tensors)
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        models = {}
        for name in args.types.split(","):
            models[name] = folder / (name if name == "F8_E4M3" else f"{name}.gguf")
            if name == "F8_E4M3":
                write_f8(models[name], source, tensors)
            elif name in TYPES:
                write_gguf(models[name], gguf_tensors, name)
            else:
                sys.exit(f"no type {name}; there are F8_E4M3, {', '.join(TYPES)}")
        for name, model in models.items():
            expected = perplexity(model, "scalar")
            row = [f"{name:8} scalar {expected:.3f}"]
            for isa in isas[1:]:
                for flags in ([], ["--no-repack"]) if isa == isas[-1] else ([],):
                    got = perplexity(model, isa, *flags)
                    row.append(f"{isa}{' unpacked' if flags else ''} {100 * (got / expected - 1):+.3f} %")
                    if not abs(got / expected - 1) < LIMIT:
                        print(f"FAILED: {name} on {isa} {flags}: {got} where scalar has {expected}")
                        failures += 1
            if args.table:
                print("  ".join(row), flush=True)
    if failures:
        sys.exit(1)
    print(f"ok: {len(models)} types on {', '.join(isas)}")


if __name__ == "__main__":
    main()
