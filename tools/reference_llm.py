#!/usr/bin/env python3
"""Tiny random checkpoints of every supported family, and what a forward pass over them must give.

reference_llm.py OUT_DIR [CASE...]      needs numpy

For each case it writes OUT_DIR/CASE/{config.json, model.safetensors} in Hugging Face's layout, OUT_DIR/CASE.gguf, the
same weights by GGUF's conventions (renamed, query and key rows permuted, norms folded, rotary factors as a tensor), and
OUT_DIR/CASE.json: for every stage of the forward pass its mean magnitude and the first numbers of its last row, and
the log-probability of each next token. The forward pass below is plain float64 NumPy after the families' published
reference code; it shares nothing with the C++ program, which is tested against it stage by stage (src/llm/reference_test.cc).
"""
import json, math, pathlib, struct, sys, zlib
import numpy as np

V, W, H, KV, D, FF, L, T = 48, 16, 2, 1, 8, 24, 2, 40
IDS = [(7 * i * i + 3 * i + 1) % V for i in range(T)]


# Configurations, as the families' own files spell them.

def base(model_type, **extra):
    return dict(model_type=model_type, vocab_size=V, hidden_size=W, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=KV,
                intermediate_size=FF, max_position_embeddings=512, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
                tie_word_embeddings=False, **extra)


def wide(config, heads=4, kv=2, head_dim=8):  # heads times their size need not be the width
    return {**config, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim}


GEMMA = dict(hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, rms_norm_eps=1e-6, query_pre_attn_scalar=8)
CASES = {
    "llama": base("llama"),
    "llama3": wide({**base("llama"), "tie_word_embeddings": True, "rope_theta": 500.0,
                    "rope_scaling": dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)}),
    "llama-yarn": {**base("llama"), "max_position_embeddings": 256, "rope_scaling": dict(type="yarn", factor=4.0, original_max_position_embeddings=64)},
    "llama-bias": {**base("llama"), "attention_bias": True, "mlp_bias": True, "rope_scaling": dict(type="linear", factor=4.0)},
    "mistral": {k: v for k, v in wide({**base("mistral"), "sliding_window": 8, "rope_parameters": dict(rope_type="default", rope_theta=1000.0)}).items() if k != "rope_theta"},
    "mixtral": {**base("mixtral"), "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2": {**base("qwen2"), "tie_word_embeddings": True, "sliding_window": 8, "use_sliding_window": False},
    "qwen3": wide(base("qwen3")),
    "qwen3moe": wide({**base("qwen3_moe"), "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 12, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    "qwen3moe-mixed": wide({**base("qwen3_moe"), "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": [0]}),
    "gemma": wide({**base("gemma"), **GEMMA}),
    "gemma2": wide({**base("gemma2"), **GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0, "sliding_window": 8}),
    "gemma3": dict(model_type="gemma3", text_config={**wide({**base("gemma3_text"), **GEMMA}), "rope_theta": 1000000.0, "rope_local_base_freq": 100.0,
                                                     "rope_scaling": dict(rope_type="linear", factor=8.0), "sliding_window": 8, "sliding_window_pattern": 2}),
    "phi3": {**base("phi3"), "max_position_embeddings": 512, "original_max_position_embeddings": 64, "sliding_window": 16,
             "rope_scaling": dict(type="longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 1.5, 2.5, 4.0])},
    "gpt2": dict(model_type="gpt2", vocab_size=V, n_embd=W, n_layer=L, n_head=H, n_positions=64, n_inner=None, layer_norm_epsilon=1e-5, activation_function="gelu_new"),
    "starcoder2": {**base("starcoder2"), "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "use_bias": True, "sliding_window": 8, "tie_word_embeddings": True},
    "olmo2": {**base("olmo2"), "attention_bias": False, "rms_norm_eps": 1e-6},
    "granite": {**base("granite"), "embedding_multiplier": 6.0, "residual_multiplier": 0.5, "attention_multiplier": 0.25, "logits_scaling": 4.0, "tie_word_embeddings": True},
    "stablelm": {**base("stablelm"), "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "use_qkv_bias": True},
    "phi2": {**base("phi"), "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    "command-r": {**base("cohere"), "layer_norm_eps": 1e-5, "logit_scale": 0.25, "tie_word_embeddings": True},
}


class Shape:
    """One case's numbers under one set of names."""
    def __init__(self, config):
        c = self.c = config.get("text_config", config)
        self.type = c["model_type"]
        self.width = c.get("hidden_size", c.get("n_embd")); self.layers = c.get("num_hidden_layers", c.get("n_layer"))
        self.heads = c.get("num_attention_heads", c.get("n_head")); self.kv = c.get("num_key_value_heads", self.heads)
        self.hd = c.get("head_dim", self.width // self.heads); self.ff = c.get("intermediate_size", 4 * self.width)
        self.context = c.get("max_position_embeddings", c.get("n_positions"))
        self.layer_norm = self.type in ("gpt2", "starcoder2", "stablelm", "phi", "cohere")
        self.eps = next(c[k] for k in ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "rms_norm_eps") if k in c)
        self.gemma = self.type.startswith("gemma")
        self.post = self.type in ("gemma2", "gemma3_text", "olmo2"); self.pre = self.type != "olmo2"
        self.parallel = self.type in ("phi", "cohere")
        self.qkv_bias = self.type in ("qwen2", "gpt2", "starcoder2", "phi") or c.get("attention_bias", False) or c.get("use_qkv_bias", False)
        self.o_bias = self.type in ("gpt2", "starcoder2", "phi") or c.get("attention_bias", False)
        self.ff_bias = self.type in ("gpt2", "starcoder2", "phi") or c.get("mlp_bias", False)
        self.gated = self.type not in ("gpt2", "starcoder2", "phi")
        self.experts = c.get("num_local_experts", c.get("num_experts", 0)); self.used = c.get("num_experts_per_tok", 0)
        self.expert_ff = c.get("moe_intermediate_size", self.ff)
        self.tied = c.get("tie_word_embeddings", self.type == "gpt2")
        self.qk_norm = {"qwen3": "head", "qwen3_moe": "head", "gemma3_text": "head", "olmo2": "full"}.get(self.type)

    def sparse(self, i): return self.experts > 0 and i not in self.c.get("mlp_only_layers", [])

    def window(self, i):
        w = self.c.get("sliding_window")
        if not w or self.type == "qwen2": return 0
        if self.type == "gemma2": return w if i % 2 == 0 else 0
        if self.type == "gemma3_text": return w if (i + 1) % self.c["sliding_window_pattern"] else 0
        return w


# Weights under plain names: matrices [out, in].

def make_weights(s, seed):
    rng = np.random.default_rng(seed); w = {}
    def mat(n, o, i, gain=1.5): w[n] = (rng.standard_normal((o, i)) * gain / math.sqrt(i)).astype(np.float16)
    def vec(n, size, mean): w[n] = (mean + 0.3 * rng.standard_normal(size)).astype(np.float32)
    def norm(n, size):
        vec(n + ".weight", size, 1.0)  # the effective weight
        if s.layer_norm and s.type != "cohere": vec(n + ".bias", size, 0.0)
    def lin(n, o, i, bias, gain=1.5):
        mat(n + ".weight", o, i, gain)
        if bias: vec(n + ".bias", o, 0.0)
    mat("embed.weight", V, s.width, math.sqrt(s.width) * (0.4 if s.tied else 1))
    if s.type == "gpt2": mat("positions.weight", s.context, s.width, math.sqrt(s.width) * 0.3)
    for i in range(s.layers):
        p = f"{i}."; q, k = s.heads * s.hd, s.kv * s.hd
        if s.pre: norm(p + "norm1", s.width)
        if s.pre and not s.parallel: norm(p + "norm2", s.width)
        if s.post: norm(p + "post1", s.width); norm(p + "post2", s.width)
        for n, o in (("q", q), ("k", k), ("v", k)): lin(p + n, o, s.width, s.qkv_bias)
        if s.qk_norm: vec(p + "q_norm.weight", q if s.qk_norm == "full" else s.hd, 1.0); vec(p + "k_norm.weight", k if s.qk_norm == "full" else s.hd, 1.0)
        lin(p + "o", s.width, q, s.o_bias, 1.0)
        if s.sparse(i):
            mat(p + "router.weight", s.experts, s.width, 3.0)
            for e in range(s.experts):
                mat(p + f"e{e}.gate.weight", s.expert_ff, s.width); mat(p + f"e{e}.up.weight", s.expert_ff, s.width); mat(p + f"e{e}.down.weight", s.width, s.expert_ff)
        else:
            if s.gated: lin(p + "gate", s.ff, s.width, s.ff_bias)
            lin(p + "up", s.ff, s.width, s.ff_bias); lin(p + "down", s.width, s.ff, s.ff_bias)
    norm("final", s.width)
    if not s.tied: lin("head", V, s.width, s.type == "phi", 3.0)
    return w


# The forward pass.

def rope_tables(s, layer):
    c = s.c
    if s.type == "gpt2": return None
    share = c.get("partial_rotary_factor", 1.0); dim = int(s.hd * share)
    parameters = c.get("rope_parameters") or {}
    theta = parameters.get("rope_theta", c.get("rope_theta"))
    scaling = c.get("rope_scaling") or {}
    if s.type == "gemma3_text" and s.window(layer): theta, scaling = c["rope_local_base_freq"], {}
    inv = 1.0 / theta ** (np.arange(0, dim, 2) / dim); factor = 1.0
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear": inv = inv / scaling["factor"]
    if kind == "llama3":
        out = []
        for f in inv:
            length = 2 * math.pi / f; old = scaling["original_max_position_embeddings"]
            low, high = old / scaling["low_freq_factor"], old / scaling["high_freq_factor"]
            if length < high: out.append(f)
            elif length > low: out.append(f / scaling["factor"])
            else:
                smooth = (old / length - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
                out.append((1 - smooth) * f / scaling["factor"] + smooth * f)
        inv = np.array(out)
    if kind == "yarn":
        old = scaling["original_max_position_embeddings"]
        find = lambda turns: dim * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))
        low, high = max(math.floor(find(32)), 0), min(math.ceil(find(1)), dim - 1)
        if low == high: high += 0.001
        ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
        inv = inv / scaling["factor"] * ramp + inv * (1 - ramp)
        factor = 0.1 * math.log(scaling["factor"]) + 1.0
    if kind == "longrope":
        stretch = s.context / c["original_max_position_embeddings"]
        inv = inv / np.array(scaling["long_factor" if stretch > 1 else "short_factor"])
        factor = math.sqrt(1 + math.log(stretch) / math.log(c["original_max_position_embeddings"])) if stretch > 1 else 1.0
    angles = np.outer(np.arange(T), inv)
    return dim, np.cos(angles) * factor, np.sin(angles) * factor, inv


def rotate(s, x, table):  # x: [T, heads, hd]
    if table is None: return x
    dim, cos, sin, _ = table; r, rest = x[..., :dim], x[..., dim:]; cos, sin = cos[:, None], sin[:, None]
    if s.type == "cohere":
        a, b = r[..., 0::2], r[..., 1::2]; out = np.empty_like(r)
        out[..., 0::2], out[..., 1::2] = a * cos - b * sin, b * cos + a * sin
    else:
        a, b = r[..., :dim // 2], r[..., dim // 2:]; out = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    return np.concatenate([out, rest], -1)


def forward(s, weights):
    c = s.c; w = {k: v.astype(np.float64) for k, v in weights.items()}; stages = []
    def stage(n, x): stages.append((n, x.reshape(T, -1).copy())); return x
    def norm(n, x):
        if n + ".weight" not in w: return x
        if s.layer_norm:
            y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + s.eps) * w[n + ".weight"]
            return y + w[n + ".bias"] if n + ".bias" in w else y
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + s.eps) * w[n + ".weight"]
    def lin(n, x):
        y = x @ w[n + ".weight"].T
        return y + w[n + ".bias"] if n + ".bias" in w else y
    def act(x):
        if c.get("hidden_activation", c.get("hidden_act", c.get("activation_function"))) == "silu": return x / (1 + np.exp(-x))
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    h = w["embed.weight"][IDS] * (math.sqrt(s.width) if s.gemma else c.get("embedding_multiplier", 1.0))
    if s.type == "gpt2": h = h + w["positions.weight"][:T]
    stage("embedding", h)
    residual = c.get("residual_multiplier", 1.0); group = s.heads // s.kv
    for i in range(s.layers):
        p = f"{i}."; n = f"layer {i} "
        x = stage(n + "attention norm", norm(p + "norm1", h)); first = x
        q, k, v = (stage(n + t, lin(p + t, x)) for t in "qkv")
        if s.qk_norm == "full": q, k = norm(p + "q_norm", q), norm(p + "k_norm", k)
        q, k, v = q.reshape(T, s.heads, s.hd), k.reshape(T, s.kv, s.hd), v.reshape(T, s.kv, s.hd)
        if s.qk_norm == "head": q, k = norm(p + "q_norm", q), norm(p + "k_norm", k)
        table = rope_tables(s, i)
        q, k = stage(n + "q rotated", rotate(s, q, table)), stage(n + "k rotated", rotate(s, k, table))
        scale = c.get("attention_multiplier") or (c["query_pre_attn_scalar"] ** -0.5 if s.type in ("gemma2", "gemma3_text") else s.hd ** -0.5)
        rows, cols = np.arange(T)[:, None], np.arange(T)[None]
        mask = cols <= rows
        if s.window(i): mask &= cols > rows - s.window(i)
        out = np.empty((T, s.heads, s.hd))
        for head in range(s.heads):
            score = q[:, head] @ k[:, head // group].T * scale
            cap = c.get("attn_logit_softcapping")
            if cap: score = cap * np.tanh(score / cap)
            score = np.where(mask, score, -np.inf); score = np.exp(score - score.max(-1, keepdims=True))
            out[:, head] = score / score.sum(-1, keepdims=True) @ v[:, head // group]
        stage(n + "attention", out)
        a = stage(n + "attention output", lin(p + "o", out.reshape(T, -1)))
        if s.parallel: x = first
        else:
            h = stage(n + "after attention", h + residual * norm(p + "post1", a)); x = norm(p + "norm2", h)
        stage(n + "ffn norm", x)
        if s.sparse(i):
            logits = stage(n + "router", lin(p + "router", x)); prob = np.exp(logits - logits.max(-1, keepdims=True)); prob /= prob.sum(-1, keepdims=True)
            f = np.zeros_like(x)
            for t in range(T):
                best = np.argsort(-prob[t], kind="stable")[:s.used]; total = prob[t][best].sum() if c.get("norm_topk_prob", True) else 1.0
                for e in best: f[t] += prob[t][e] / total * lin(p + f"e{e}.down", act(lin(p + f"e{e}.gate", x[t])) * lin(p + f"e{e}.up", x[t]))
        else:
            f = lin(p + "down", act(lin(p + "gate", x)) * lin(p + "up", x) if s.gated else act(lin(p + "up", x)))
        stage(n + "ffn", f)
        h = h + a + f if s.parallel else h + residual * norm(p + "post2", f)
        stage(n + "output", h)
    x = stage("final norm", norm("final", h))
    logits = lin("head", x) if "head.weight" in w else x @ w["embed.weight"].T
    logits = logits / c.get("logits_scaling", 1.0) * c.get("logit_scale", 1.0)
    cap = c.get("final_logit_softcapping")
    if cap: logits = cap * np.tanh(logits / cap)
    stage("logits", logits)
    logprobs = logits - logits.max(-1, keepdims=True); logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
    return stages, [float(logprobs[t, IDS[t + 1]]) for t in range(T - 1)]


# Hugging Face's layout.

def to_hf(s, w, multimodal):
    out = {}; gpt2 = s.type == "gpt2"
    top = "language_model.model." if multimodal else "transformer." if gpt2 else "model."
    def put(n, *parts, transposed=False, shift=0):
        for end in (".weight", ".bias"):
            if parts[0] + end not in w: continue
            x = np.concatenate([w[q + end] for q in parts])
            if transposed and end == ".weight": x = x.T
            out[n + end] = np.ascontiguousarray(x - x.dtype.type(shift) if shift else x)
    put(top + ("wte" if gpt2 else "embed_tokens"), "embed"); put(top + "wpe", "positions")
    put(top + ("ln_f" if gpt2 else "final_layernorm" if s.type == "phi" else "norm"), "final", shift=s.gemma)
    put("language_model.lm_head" if multimodal else "lm_head", "head")
    for i in range(s.layers):
        p = f"{i}."; b = top + ("h." if gpt2 else "layers.") + p
        if gpt2:
            put(b + "ln_1", p + "norm1"); put(b + "ln_2", p + "norm2"); put(b + "attn.c_attn", p + "q", p + "k", p + "v", transposed=True)
            put(b + "attn.c_proj", p + "o", transposed=True); put(b + "mlp.c_fc", p + "up", transposed=True); put(b + "mlp.c_proj", p + "down", transposed=True)
            out[b + "attn.bias"] = np.tril(np.ones((1, 1, 8, 8), np.float32)); continue
        put(b + "input_layernorm", p + "norm1", shift=s.gemma)
        put(b + ("pre_feedforward_layernorm" if s.post else "post_attention_layernorm"), p + "norm2", shift=s.gemma)
        put(b + "post_attention_layernorm", p + "post1", shift=s.gemma) if s.post else None; put(b + "post_feedforward_layernorm", p + "post2", shift=s.gemma)
        a = b + "self_attn."
        if s.type == "phi3": put(a + "qkv_proj", p + "q", p + "k", p + "v"); put(b + "mlp.gate_up_proj", p + "gate", p + "up")
        else:
            for t in "qkv": put(a + t + "_proj", p + t)
            put(b + "mlp.gate_proj", p + "gate"); put(b + "mlp." + {"phi": "fc1", "starcoder2": "c_fc"}.get(s.type, "up_proj"), p + "up")
        put(a + "q_norm", p + "q_norm", shift=s.gemma); put(a + "k_norm", p + "k_norm", shift=s.gemma)
        put(a + ("dense" if s.type == "phi" else "o_proj"), p + "o"); put(b + "mlp." + {"phi": "fc2", "starcoder2": "c_proj"}.get(s.type, "down_proj"), p + "down")
        moe = "block_sparse_moe." if s.type == "mixtral" else "mlp."
        put(b + moe + "gate", p + "router")
        for e in range(s.experts):
            for ours, w_n, plain in (("gate", "w1", "gate_proj"), ("down", "w2", "down_proj"), ("up", "w3", "up_proj")):
                put(b + moe + f"experts.{e}." + (w_n if s.type == "mixtral" else plain), p + f"e{e}.{ours}")
    return out


def write_safetensors(path, tensors):
    header, blobs, at = {}, [], 0
    for n, x in tensors.items():
        header[n] = dict(dtype={"float16": "F16", "float32": "F32"}[str(x.dtype)], shape=list(x.shape), data_offsets=[at, at + x.nbytes]); at += x.nbytes; blobs.append(x.tobytes())
    text = json.dumps(header, separators=(",", ":")).encode(); text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


# GGUF's layout.

GGUF_ARCH = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3", "phi": "phi2", "cohere": "command-r"}


def to_gguf(s, w):
    arch = GGUF_ARCH.get(s.type, s.type); c = s.c; t = {}
    permuted = arch in ("llama", "granite")
    def pairs(x, heads):  # first half and second half of each head interleaved
        return x.reshape(heads, 2, s.hd // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
    def put(n, *parts, heads=0):
        for end in (".weight", ".bias"):
            if parts[0] + end not in w: continue
            x = np.concatenate([w[q + end] for q in parts])
            t[n + end] = pairs(x, heads) if heads and permuted else x
    put("token_embd", "embed"); put("position_embd", "positions"); put("output_norm", "final"); put("output", "head")
    for i in range(s.layers):
        p = f"{i}."; b = f"blk.{i}."
        put(b + "attn_norm", p + "norm1"); put(b + "ffn_norm", p + "norm2"); put(b + "post_attention_norm", p + "post1"); put(b + "post_ffw_norm", p + "post2")
        if s.type in ("gpt2", "phi3"): put(b + "attn_qkv", p + "q", p + "k", p + "v")
        else: put(b + "attn_q", p + "q", heads=s.heads); put(b + "attn_k", p + "k", heads=s.kv); put(b + "attn_v", p + "v")
        put(b + "attn_q_norm", p + "q_norm"); put(b + "attn_k_norm", p + "k_norm"); put(b + "attn_output", p + "o")
        if s.sparse(i):
            put(b + "ffn_gate_inp", p + "router")
            for n in ("gate", "up", "down"): t[b + f"ffn_{n}_exps.weight"] = np.stack([w[p + f"e{e}.{n}.weight"] for e in range(s.experts)])
        elif s.type == "phi3": put(b + "ffn_up", p + "gate", p + "up"); put(b + "ffn_down", p + "down")
        else: put(b + "ffn_gate", p + "gate"); put(b + "ffn_up", p + "up"); put(b + "ffn_down", p + "down")
    m = {"general.architecture": arch, f"{arch}.context_length": s.context, f"{arch}.embedding_length": s.width, f"{arch}.block_count": s.layers,
         f"{arch}.feed_forward_length": s.ff, f"{arch}.attention.head_count": s.heads, f"{arch}.attention.head_count_kv": s.kv,
         f"{arch}.attention.layer_norm_epsilon" if s.layer_norm else f"{arch}.attention.layer_norm_rms_epsilon": float(s.eps)}
    if s.hd * s.heads != s.width: m |= {f"{arch}.attention.key_length": s.hd, f"{arch}.attention.value_length": s.hd}
    table = rope_tables(s, s.layers - 1)
    if table is not None:
        theta = (c.get("rope_parameters") or {}).get("rope_theta", c.get("rope_theta"))
        m |= {f"{arch}.rope.dimension_count": table[0], f"{arch}.rope.freq_base": float(theta)}
        scaling = c.get("rope_scaling") or {}; kind = scaling.get("rope_type", scaling.get("type")); r = f"{arch}.rope.scaling."
        if kind in ("linear", "yarn"): m |= {r + "type": kind, r + "factor": float(scaling["factor"])}
        if kind == "yarn": m |= {r + "original_context_length": scaling["original_max_position_embeddings"]}
        plain = 1.0 / theta ** (np.arange(0, table[0], 2) / table[0])
        if kind == "llama3": t["rope_freqs.weight"] = (plain / table[3]).astype(np.float32)
        if kind == "longrope":
            for n in ("short", "long"): t[f"rope_factors_{n}.weight"] = np.array(scaling[n + "_factor"], np.float32)
            m |= {r + "type": "longrope", r + "original_context_length": c["original_max_position_embeddings"], r + "attn_factor": float(table[1][0, 0])}
    if s.type == "gemma3_text": m |= {f"{arch}.rope.freq_base_swa": c["rope_local_base_freq"], f"{arch}.attention.sliding_window_pattern": c["sliding_window_pattern"]}
    if c.get("sliding_window") and s.type != "qwen2": m[f"{arch}.attention.sliding_window"] = c["sliding_window"]
    if s.experts: m |= {f"{arch}.expert_count": s.experts, f"{arch}.expert_used_count": s.used, f"{arch}.expert_feed_forward_length": s.expert_ff}
    for ours, key in (("attn_logit_softcapping", "attn_logit_softcapping"), ("final_logit_softcapping", "final_logit_softcapping"), ("embedding_multiplier", "embedding_scale"),
                      ("residual_multiplier", "residual_scale"), ("attention_multiplier", "attention.scale"), ("logits_scaling", "logit_scale"), ("logit_scale", "logit_scale")):
        if c.get(ours): m[f"{arch}.{key}"] = float(c[ours])
    return m, t


def write_gguf(path, metadata, tensors):
    def string(x): return struct.pack("<Q", len(x.encode())) + x.encode()
    def value(x):
        if isinstance(x, str): return struct.pack("<I", 8) + string(x)
        return struct.pack("<If", 6, x) if isinstance(x, float) else struct.pack("<II", 4, x)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(string(k) + value(x) for k, x in metadata.items())
    at = 0
    for n, x in tensors.items():
        out += string(n) + struct.pack("<I", x.ndim) + struct.pack(f"<{x.ndim}Q", *x.shape[::-1]) + struct.pack("<IQ", {"float32": 0, "float16": 1}[str(x.dtype)], at)
        at += -(-x.nbytes // 32) * 32
    out += b"\0" * (-len(out) % 32)
    for x in tensors.values(): out += x.tobytes() + b"\0" * (-x.nbytes % 32)
    path.write_bytes(out)


def main():
    out = pathlib.Path(sys.argv[1])
    for name, config in CASES.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]: continue
        s = Shape(config); weights = make_weights(s, zlib.crc32(name.encode())); hf = to_hf(s, weights, "text_config" in config)
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        write_safetensors(out / name / "model.safetensors", hf)
        if name != "qwen3moe-mixed": write_gguf(out / f"{name}.gguf", *to_gguf(s, weights))  # GGUF cannot say which layers are dense
        stages, logprobs = forward(s, weights)
        number = lambda x: float(f"{x:.7g}")
        (out / f"{name}.json").write_text(json.dumps(dict(
            ids=IDS, stages=[dict(name=n, mean=number(np.abs(x).mean()), last=[number(y) for y in x[-1, :6]]) for n, x in stages],
            logprobs=[number(x) for x in logprobs]), separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
        print(name)


if __name__ == "__main__":
    main()
