#!/usr/bin/env python3
"""Writes a GGUF model of TinyLlama's shape (1.1B) with random weights in Q4_K, the head in Q6_K as in Q4_K_M files.

  make_q4k.py --vocab ANY.gguf -o OUT.gguf [--layers 22]

Speed does not depend on what the weights are, so it stands in for a trained model in a benchmark; it generates noise.
The tokenizer is copied from --vocab, any GGUF file with a vocabulary. Needs numpy; takes a few seconds."""
import argparse
import struct
import sys

try:
    import numpy as np
except ImportError:
    np = None  # --help and wrong usage need none

F32, Q4_K, Q6_K = 0, 12, 14
BLOCK = 256
BLOCK_BYTES = {Q4_K: 144, Q6_K: 210}
ALIGNMENT = 32
U32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
WIDTH, FFN, HEADS, KV_HEADS, HEAD_DIM = 2048, 5632, 32, 4, 64
STANDARD_DEVIATION = 0.02


def skip_value(data, kind, at):
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind != ARRAY:
        return at + SCALAR_BYTES[kind]
    item, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item in SCALAR_BYTES:
        return at + count * SCALAR_BYTES[item]
    for _ in range(count):
        at = skip_value(data, item, at)
    return at


def read_tokenizer(path):
    """The metadata pairs of the tokenizer, as they lie in the file, and the size of the vocabulary."""
    try:
        with open(path, "rb") as file:
            data = file.read(64 << 20)
    except OSError as error:
        sys.exit(f"make_q4k.py: --vocab {path}: {error.strerror}")
    if data[:4] != b"GGUF":
        sys.exit(f"make_q4k.py: --vocab {path}: not a GGUF file")
    try:
        return parse_tokenizer(data, path)
    except (struct.error, KeyError, UnicodeDecodeError):
        sys.exit(f"make_q4k.py: --vocab {path}: its metadata are damaged, or longer than 64 MiB")


def parse_tokenizer(data, path):
    (count,) = struct.unpack_from("<Q", data, 16)
    at, pairs, vocabulary = 24, [], 0
    for _ in range(count):
        begin = at
        (size,) = struct.unpack_from("<Q", data, at)
        key = data[at + 8:at + 8 + size].decode()
        at += 8 + size
        (kind,) = struct.unpack_from("<I", data, at)
        if key == "tokenizer.ggml.tokens":
            (vocabulary,) = struct.unpack_from("<Q", data, at + 8)
        at = skip_value(data, kind, at + 4)
        if key.startswith("tokenizer."):
            pairs.append(data[begin:at])
    if not vocabulary:
        sys.exit(f"make_q4k.py: --vocab {path}: no tokenizer.ggml.tokens in its metadata")
    return pairs, vocabulary


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def pair(key, kind, value):
    packed = string(value) if kind == STRING else struct.pack("<f" if kind == FLOAT32 else "<I", value)
    return string(key) + struct.pack("<I", kind) + packed


def pack_scales_q4k(scales, mins):
    """Eight 6-bit scales and eight 6-bit minimums to 12 bytes: 0-3 whole, with the top bits of 4-7; nibbles of 4-7."""
    out = np.empty((len(scales), 12), dtype=np.uint8)
    out[:, 0:4] = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    out[:, 4:8] = mins[:, :4] | (mins[:, 4:] >> 4) << 6
    out[:, 8:12] = (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4
    return out


def random_q4k(rng, num_blocks):
    """w = d * scale * q - dmin * min with q in 0..15: centred on 0 when min is 7.5 times the scale."""
    block = np.empty(num_blocks, dtype=[("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("q", "u1", 128)])
    scales = rng.integers(24, 64, (num_blocks, 8), dtype=np.uint8)
    d = STANDARD_DEVIATION / (44 * 4.61)
    block["d"], block["dmin"] = d, d * 7.5
    block["scales"] = pack_scales_q4k(scales, scales)
    block["q"] = rng.integers(0, 256, (num_blocks, 128), dtype=np.uint8)
    return block.tobytes()


def random_q6k(rng, num_blocks):
    """w = d * scale * (q - 32) with q in 0..63 as four low and two high bits, sixteen signed scales."""
    block = np.empty(num_blocks, dtype=[("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])
    block["low"] = rng.integers(0, 256, (num_blocks, 128), dtype=np.uint8)
    block["high"] = rng.integers(0, 256, (num_blocks, 64), dtype=np.uint8)
    block["scales"] = rng.integers(40, 120, (num_blocks, 16), dtype=np.int8)
    block["d"] = STANDARD_DEVIATION / (80 * 18.5)
    return block.tobytes()


def list_tensors(vocabulary, layers):
    tensors = [("token_embd.weight", vocabulary, WIDTH, Q4_K), ("output_norm.weight", 1, WIDTH, F32),
               ("output.weight", vocabulary, WIDTH, Q6_K)]
    for i in range(layers):
        p = f"blk.{i}."
        tensors += [(p + "attn_norm.weight", 1, WIDTH, F32), (p + "attn_q.weight", HEADS * HEAD_DIM, WIDTH, Q4_K),
                    (p + "attn_k.weight", KV_HEADS * HEAD_DIM, WIDTH, Q4_K),
                    (p + "attn_v.weight", KV_HEADS * HEAD_DIM, WIDTH, Q4_K),
                    (p + "attn_output.weight", WIDTH, HEADS * HEAD_DIM, Q4_K), (p + "ffn_norm.weight", 1, WIDTH, F32),
                    (p + "ffn_gate.weight", FFN, WIDTH, Q4_K), (p + "ffn_up.weight", FFN, WIDTH, Q4_K),
                    (p + "ffn_down.weight", WIDTH, FFN, Q4_K)]
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if np is None:
        sys.exit("make_q4k.py: needs numpy, which this Python does not have: install python3-numpy and run it with "
                 "/usr/bin/python3")
    if args.layers < 1:
        sys.exit(f"make_q4k.py: --layers {args.layers}: a model has at least 1")
    if args.seed < 0:
        sys.exit(f"make_q4k.py: --seed {args.seed}: it is at least 0")
    tokenizer, vocabulary = read_tokenizer(args.vocab)
    metadata = [pair("general.architecture", STRING, "llama"),
                pair("general.name", STRING, "tinyllama-1.1b random q4_k"),
                pair("general.file_type", U32, 15), pair("general.quantization_version", U32, 2),
                pair("general.alignment", U32, ALIGNMENT), pair("llama.context_length", U32, 4096),
                pair("llama.embedding_length", U32, WIDTH), pair("llama.block_count", U32, args.layers),
                pair("llama.feed_forward_length", U32, FFN), pair("llama.attention.head_count", U32, HEADS),
                pair("llama.attention.head_count_kv", U32, KV_HEADS), pair("llama.rope.dimension_count", U32, HEAD_DIM),
                pair("llama.rope.freq_base", FLOAT32, 10000.0),
                pair("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
                pair("llama.vocab_size", U32, vocabulary)] + tokenizer
    tensors = list_tensors(vocabulary, args.layers)
    infos, offset = [], 0
    for name, rows, columns, kind in tensors:
        dims = (columns,) if rows == 1 else (columns, rows)
        infos.append(string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        size = 4 * rows * columns if kind == F32 else rows * columns // BLOCK * BLOCK_BYTES[kind]
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    rng = np.random.default_rng(args.seed)
    try:
        write_model(args.out, tensors, metadata, infos, rng)
    except OSError as error:
        sys.exit(f"make_q4k.py: --out {args.out}: {error.strerror}")


def write_model(path, tensors, metadata, infos, rng):
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + b"".join(infos))
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        for _, rows, columns, kind in tensors:
            if kind == F32:
                file.write(np.ones(rows * columns, dtype=np.float32).tobytes())
            else:
                make = random_q4k if kind == Q4_K else random_q6k
                for begin in range(0, rows * columns // BLOCK, 1 << 16):
                    file.write(make(rng, min(1 << 16, rows * columns // BLOCK - begin)))
            file.write(b"\0" * (-file.tell() % ALIGNMENT))


if __name__ == "__main__":
    main()
