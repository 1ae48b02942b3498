#!/usr/bin/env python3
"""Writes src/graph/ops_sequence_expected.h: what recurrent, attention and signal operators have to give in
ops_sequence_test.cc, computed by NumPy in double precision from the definitions of the operators.

Inputs are waves that the test makes for itself: element i of an input with seed s is sin(0.7 i + s) as a float.

    tools/make_sequence_cases.py > src/graph/ops_sequence_expected.h
"""
import numpy as np

TABLES = []


def wave(seed, *shape):
    count = int(np.prod(shape))
    return np.sin(0.7 * np.arange(count) + seed).astype(np.float32).astype(np.float64).reshape(shape)


def expect(name, *outputs):
    for i, output in enumerate(outputs):
        TABLES.append((f"{name}.{i}", np.asarray(output, dtype=np.float64).ravel()))


# ---- recurrent layers ----

FUNCTIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "leakyrelu.1": lambda x: np.where(x < 0, 0.1 * x, x),
    "hardsigmoid.3.4": lambda x: np.clip(0.3 * x + 0.4, 0, 1),
    "affine.5.1": lambda x: 0.5 * x + 0.1,
    "scaledtanh.9.8": lambda x: 0.9 * np.tanh(0.8 * x),
    "elu2": lambda x: np.where(x < 0, 2 * np.expm1(x), x),
    "softplus": lambda x: np.log1p(np.exp(x)),
}


def quantise(x):
    low, high = min(0, x.min()), max(0, x.max())
    scale = np.float32((high - low) / 255) if high > low else 1.0
    zero = np.rint(np.clip(-low / scale, 0, 255))
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def recurrent(cell, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None, direction="forward", functions=None,
              clip=None, reset_after=False, couple=False, state=lambda h: h):
    """x [steps, batch, inputs]; gives y [steps, directions, batch, hidden], last h and last c."""
    steps, batch, _ = x.shape
    directions, _, hidden = r.shape
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
    usual = {"rnn": ["tanh"], "gru": ["sigmoid", "tanh"], "lstm": ["sigmoid", "tanh", "tanh"]}
    functions = functions or usual[cell] * directions
    lengths = lengths or [steps] * batch
    bound = (lambda v: np.clip(v, -clip, clip)) if clip else (lambda v: v)
    y = np.zeros((steps, directions, batch, hidden))
    last_h, last_c = np.zeros((directions, batch, hidden)), np.zeros((directions, batch, hidden))
    for d in range(directions):
        n = len(functions) // directions
        act = [lambda v, f=FUNCTIONS[name]: f(bound(v)) for name in functions[d * n:(d + 1) * n]]
        W = np.split(w[d], gates)
        R = np.split(r[d], gates)
        bias = np.zeros(2 * gates * hidden) if b is None else b[d]
        Wb, Rb = np.split(bias[:gates * hidden], gates), np.split(bias[gates * hidden:], gates)
        h = np.zeros((batch, hidden)) if h0 is None else h0[d].copy()
        c = np.zeros((batch, hidden)) if c0 is None else c0[d].copy()
        Pi, Po, Pf = np.split(p[d], 3) if p is not None else (0, 0, 0)
        backward = direction == "reverse" or d == 1
        for s in range(steps):
            rounded = state(h)
            new_h, new_c = h.copy(), c.copy()
            for i in range(batch):
                if s >= lengths[i]:
                    continue
                t = lengths[i] - 1 - s if backward else s
                X = [W[g] @ x[t, i] + Wb[g] for g in range(gates)]
                H = [R[g] @ rounded[i] + Rb[g] for g in range(gates)]
                if cell == "rnn":
                    new_h[i] = act[0](X[0] + H[0])
                elif cell == "gru":
                    z, reset = act[0](X[0] + H[0]), act[0](X[1] + H[1])
                    inner = reset * H[2] if reset_after else R[2] @ (reset * h[i]) + Rb[2]
                    new_h[i] = (1 - z) * act[1](X[2] + inner) + z * h[i]
                else:
                    gi = act[0](X[0] + H[0] + Pi * c[i])
                    gf = 1 - gi if couple else act[0](X[2] + H[2] + Pf * c[i])
                    new_c[i] = gf * c[i] + gi * act[1](X[3] + H[3])
                    go = act[0](X[1] + H[1] + Po * new_c[i])
                    new_h[i] = go * act[2](new_c[i])
                y[t, d, i] = new_h[i]
            h, c = new_h, new_c
        last_h[d], last_c[d] = h, c
    return y, last_h, last_c


def recurrent_cases():
    steps, batch, inputs, hidden = 3, 2, 3, 2
    x = wave(1, steps, batch, inputs)
    expect("lstm_everything", *recurrent(
        "lstm", x, wave(2, 2, 8, 3), wave(3, 2, 8, 2), wave(4, 2, 16), [3, 1], wave(5, 2, 2, 2), wave(6, 2, 2, 2),
        wave(7, 2, 6), "bidirectional", clip=0.5))
    y, h, c = recurrent("lstm", wave(1, batch, steps, inputs).transpose(1, 0, 2), wave(2, 1, 8, 3), wave(3, 1, 8, 2),
                        h0=wave(5, batch, 1, hidden).transpose(1, 0, 2), couple=True,
                        functions=["hardsigmoid.3.4", "affine.5.1", "softsign"])
    expect("lstm_batch_first", y.transpose(2, 0, 1, 3), h.transpose(1, 0, 2), c.transpose(1, 0, 2))
    expect("gru_after", *recurrent("gru", x, wave(2, 2, 6, 3), wave(3, 2, 6, 2), wave(4, 2, 12), [2, 3],
                                   direction="bidirectional", reset_after=True)[:2])
    expect("gru_reverse", *recurrent("gru", x, wave(2, 1, 6, 3), wave(3, 1, 6, 2), wave(4, 1, 12), [2, 0],
                                     wave(5, 1, 2, 2), direction="reverse", functions=["scaledtanh.9.8", "elu2"])[:2])
    expect("rnn_reverse", *recurrent("rnn", x, wave(2, 1, 2, 3), wave(3, 1, 2, 2), direction="reverse",
                                     functions=["leakyrelu.1"])[:2])
    expect("rnn_softplus", *recurrent("rnn", x, wave(2, 1, 2, 3), wave(3, 1, 2, 2), functions=["softplus"])[:2])
    w = (np.rint(wave(2, 1, 3, 8) * 100) - 3) * (0.01 + 0.001 * np.arange(8))
    r = (np.rint(wave(3, 1, 2, 8) * 100) + 2) * 0.02
    expect("quantized_lstm", *recurrent("lstm", quantise(x), w.transpose(0, 2, 1), r.transpose(0, 2, 1), wave(4, 1, 16),
                                        state=quantise))


# ---- signals ----

def parts(z):
    return np.stack([z.real, z.imag], axis=-1)


def signal_cases():
    for n in (1, 2, 12, 17, 34, 49, 60, 97):
        expect(f"dft_{n}", parts(np.fft.fft(wave(1, 2, n), axis=1))[1, ::max(1, n // 6)])
    x = wave(2, 1, 5, 4, 2)
    z = x[..., 0] + 1j * x[..., 1]
    expect("dft_padded", parts(np.fft.fft(z, n=7, axis=1)))
    expect("dft_cropped_inverse", parts(np.fft.ifft(z, n=3, axis=2)))
    expect("rfft", parts(np.fft.rfft(wave(3, 2, 9), axis=1)))
    half = wave(4, 1, 4, 2)
    expect("irfft_even", np.fft.irfft(half[..., 0] + 1j * half[..., 1], n=6, axis=1))
    expect("irfft_odd", np.fft.irfft(half[..., 0] + 1j * half[..., 1], n=7, axis=1))
    signal, window = wave(5, 2, 20), wave(6, 6)
    frames = np.stack([signal[:, s:s + 6] * window for s in range(0, 15, 4)], axis=1)
    expect("stft_twosided", parts(np.fft.fft(frames, axis=2)))
    c = wave(7, 1, 12, 2)
    c = c[..., 0] + 1j * c[..., 1]
    expect("stft_complex", parts(np.fft.fft(np.stack([c[:, s:s + 5] for s in range(0, 8, 3)], axis=1), axis=2)))
    expect("hann", np.hanning(7), np.hanning(8)[:7])
    expect("blackman", np.blackman(6))


# ---- attention ----

def rotate(x, cos, sin, interleaved=False):
    """x [..., size], cos and sin [..., half]."""
    half = cos.shape[-1]
    out = x.copy()
    if interleaved:
        a, b = x[..., 0:2 * half:2], x[..., 1:2 * half:2]
        out[..., 0:2 * half:2], out[..., 1:2 * half:2] = a * cos - b * sin, a * sin + b * cos
    else:
        a, b = x[..., :half], x[..., half:2 * half]
        out[..., :half], out[..., half:2 * half] = a * cos - b * sin, a * sin + b * cos
    return out


def heads(x, n):  # [batch, rows, n * size] to [batch, n, rows, size]
    return x.reshape(x.shape[0], x.shape[1], n, -1).transpose(0, 2, 1, 3)


def merge(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attend(q, k, v, bias=0.0, visible=None, scale=None, softcap=0.0, sinks=None):
    """q [batch, heads, rows, size]; k and v may have fewer heads. Gives y, and scores with the bias, and weights."""
    k, v = (np.repeat(t, q.shape[1] // t.shape[1], axis=1) for t in (k, v))
    s = q @ k.transpose(0, 1, 3, 2) * (scale or 1 / np.sqrt(q.shape[-1]))
    if softcap:
        s = softcap * np.tanh(s / softcap)
    s = s + bias
    s = s if visible is None else np.where(visible, s, -np.inf)
    top = s.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    e = np.exp(s - top)
    total = e.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.reshape(sinks, (1, -1, 1, 1)) - top)
    p = np.where(total > 0, e / np.where(total > 0, total, 1), 0)
    return p @ v, s, p


def causal(rows, columns, offset, window=None):
    i, j = np.arange(rows)[:, None] + offset, np.arange(columns)[None, :]
    return (j <= i) & ((i - j < window) if window else True)


def attention_cases():
    # ONNX, opset 24: grouped heads side by side, past, a short mask by head, causality, softcap.
    q, k, v = heads(wave(1, 2, 3, 16), 4), heads(wave(2, 2, 3, 8), 2), heads(wave(3, 2, 3, 6), 2)
    k, v = np.concatenate([wave(4, 2, 2, 2, 4), k], axis=2), np.concatenate([wave(5, 2, 2, 2, 3), v], axis=2)
    mask = np.concatenate([wave(6, 4, 3, 4), np.full((4, 3, 1), -np.inf)], axis=-1)
    y, _, weights = attend(q, k, v, mask, causal(3, 5, 2), softcap=1.5)
    expect("attention_24", merge(y), k, v, weights)
    # Opset 25: a window.
    q, k, v = wave(1, 1, 1, 6, 4), wave(2, 1, 1, 6, 4), wave(3, 1, 1, 6, 4)
    expect("attention_window", attend(q, k, v, 0.0, causal(6, 6, 0, 2))[0])

    # com.microsoft.Attention: hidden size 4, 2 heads, past of 2, an ordinary mask, causal, a bias.
    x, w, b = wave(1, 2, 3, 4), wave(2, 4, 12), wave(3, 12)
    past = wave(4, 2, 2, 2, 2, 2)
    proj = x @ w + b
    q, k, v = (heads(proj[..., i * 4:i * 4 + 4], 2) for i in range(3))
    k1, v1 = np.concatenate([past[0], k], axis=2), np.concatenate([past[1], v], axis=2)
    raw = np.array([[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])
    y, _, _ = attend(q, k1, v1, np.where(raw, 0, -10000.0)[:, None, None, :] + wave(5, 1, 2, 3, 5), causal(3, 5, 2))
    expect("ms_attention", merge(y), np.stack([k1, v1]))
    # A mask of ends and starts; values of another size.
    w, b = wave(2, 4, 14), wave(3, 14)
    proj = x @ w + b
    q, k, v = heads(proj[..., :4], 2), heads(proj[..., 4:8], 2), heads(proj[..., 8:], 2)
    seen = np.array([[1, 1, 0], [0, 1, 1]])
    expect("ms_attention_ends", merge(attend(q, k, v, np.where(seen, 0, -50.0)[:, None, None, :], scale=0.3)[0]))
    # QAttention: codes round(100 wave) of input (uint8, +128) and weights (int8).
    xq, wq = np.rint(100 * x) * 0.01, np.rint(100 * wave(2, 4, 12)) * 0.02
    proj = xq @ wq + wave(3, 12)
    q, k, v = (heads(proj[..., i * 4:i * 4 + 4], 2) for i in range(3))
    lengths = np.arange(3)[None, :] < np.array([3, 2])[:, None]
    expect("ms_qattention", merge(attend(q, k, v, np.where(lengths, 0, -10000.0)[:, None, None, :])[0]))

    # MultiHeadAttention: biases, a past, a mask by keys, scores.
    bias = wave(4, 14)
    q, k, v = wave(1, 2, 3, 4) + bias[:4], wave(2, 2, 2, 4) + bias[4:8], wave(3, 2, 2, 6) + bias[8:]
    q, k, v = heads(q, 2), heads(k, 2), heads(v, 2)
    k, v = np.concatenate([wave(5, 2, 2, 1, 2), k], axis=2), np.concatenate([wave(6, 2, 2, 1, 3), v], axis=2)
    seen = np.array([[1, 1, 0], [1, 0, 1]])
    y, scores, _ = attend(q, k, v, np.where(seen, 0, -20.0)[:, None, None, :] + wave(7, 2, 1, 3, 3))
    expect("ms_multihead", merge(y), k, v, scores)
    packed = wave(1, 2, 3, 2, 3, 2).transpose(3, 0, 2, 1, 4)
    expect("ms_multihead_packed", merge(attend(packed[0], packed[1], packed[2], 0.0, causal(3, 3, 0))[0]))
    packed = wave(2, 2, 4, 2, 2, 2).transpose(3, 0, 2, 1, 4)
    expect("ms_multihead_packed_kv", merge(attend(heads(wave(1, 2, 3, 4), 2), packed[0], packed[1])[0]))
    y = attend(heads(wave(1, 1, 2, 4) + wave(4, 12)[:4], 2), wave(2, 1, 2, 3, 2), wave(3, 1, 2, 3, 2))[0]
    expect("ms_multihead_cross", merge(y))
    # DecoderMaskedMultiHeadAttention: a shared buffer of 4 rows, 2 of them past.
    k = np.concatenate([wave(5, 1, 2, 4, 2)[:, :, :2], heads(wave(2, 1, 1, 4), 2)], axis=2)
    v = np.concatenate([wave(6, 1, 2, 4, 2)[:, :, :2], heads(wave(3, 1, 1, 4), 2)], axis=2)
    y = attend(heads(wave(1, 1, 1, 4), 2), k, v)[0]
    expect("ms_decoder", merge(y), np.pad(k, ((0, 0), (0, 0), (0, 1), (0, 0))))

    # GroupQueryAttention: 4 query heads on 2, size 4, sequences of 3 and 5 keys, 2 of them new, a buffer of 4 rows.
    size, rows, total = 4, 2, 5
    lengths = [3, 5]
    cos, sin = wave(8, 8, 2), wave(9, 8, 2)
    packed = wave(1, 2, rows, 8 * size)
    q, k, v = (heads(packed[..., a * size:b * size], b - a) for a, b in ((0, 4), (4, 6), (6, 8)))
    past_k, past_v = wave(2, 2, 2, 4, size), wave(3, 2, 2, 4, size)
    full_k, full_v = np.zeros((2, 2, total, size)), np.zeros((2, 2, total, size))
    y = np.zeros((2, 4, rows, size))
    y_window, shown = y.copy(), np.zeros((2, 4, rows, total))
    sinks, bias = wave(4, 4), wave(5, 1, 4, rows, total)
    for b, length in enumerate(lengths):
        past = length - rows
        angle = (cos[past:length], sin[past:length])
        full_k[b, :, :past], full_v[b, :, :past] = past_k[b, :, :past], past_v[b, :, :past]
        full_k[b, :, past:length], full_v[b, :, past:length] = rotate(k[b], *angle), v[b]
        args = (rotate(q[b:b + 1], *angle), full_k[b:b + 1, :, :length], full_v[b:b + 1, :, :length])
        y[b] = attend(*args, bias[..., :length], causal(rows, length, past), softcap=2.0, sinks=sinks)[0][0]
        seen = causal(rows, length, past, 2)
        y_window[b], _, weights = (t[0] for t in attend(*args, 0.0, seen, sinks=np.zeros(4)))
        shown[b, :, :, :length] = weights
    expect("ms_group_query", merge(y), full_k, full_v)
    expect("ms_group_query_window", merge(y_window), shown)
    # A first prompt, padded on the right; norms; interleaved and partial rotation.
    q, k, v = heads(wave(1, 2, 3, 8), 2), heads(wave(2, 2, 3, 4), 1), heads(wave(3, 2, 3, 4), 1)
    norm = lambda t, w: t / np.sqrt((t * t).mean(axis=-1, keepdims=True) + 1e-6) * w
    q, k = norm(q, wave(6, 4)), norm(k, wave(7, 4))
    q, k = (rotate(t, wave(8, 8, 1)[1:4], wave(9, 8, 1)[1:4], True) for t in (q, k))
    y = np.zeros_like(q)
    for b, length in enumerate([2, 3]):
        y[b] = attend(q[b:b + 1], k[b:b + 1, :, :length], v[b:b + 1, :, :length], 0.0, causal(3, length, 0))[0][0]
    expect("ms_group_query_prompt", merge(y), k)

    # RotaryEmbedding of com.microsoft: positions from 2 on, 4 of 6 elements.
    x = heads(wave(1, 2, 3, 12), 2)
    expect("ms_rotary", merge(rotate(x, cos[2:5], sin[2:5])))


def main():
    recurrent_cases()
    signal_cases()
    attention_cases()
    print("// Made by tools/make_sequence_cases.py; do not edit.")
    print("#pragma once\n\n#include <map>\n#include <string>\n#include <vector>\n\nnamespace sluice::graph {\n")
    print("inline const std::map<std::string, std::vector<float>> kExpected = {")
    for name, values in TABLES:
        numbers = [f"{v:.7g}" if np.isfinite(v) else ("-INFINITY" if v < 0 else "NAN") for v in values]
        lines, line = [], f'    {{"{name}", {{'
        for i, number in enumerate(numbers):
            piece = number + (", " if i + 1 < len(numbers) else "}},")
            if len(line) + len(piece) > 118:
                lines.append(line.rstrip())
                line = "     "
            line += piece
        print("\n".join(lines + [line]))
    print("};\n\n}  // namespace sluice::graph")


main()
