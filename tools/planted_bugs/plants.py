"""Porting mistakes as exact replacements in the engine's text: what plant_bugs.py plants, one at a time.

Each is a mistake that was made or could easily be made when rewriting the published model; none changes a shape
that the loader would refuse. `old` must stand in the file exactly once, so that a changed engine cannot turn a plant
into a replacement of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

MEL = "engine/audio/mel.py"
CONFIG = "engine/model/config.py"
ENCODER = "engine/model/encoder.py"
DECODER = "engine/model/decoder.py"
CACHE = "engine/model/cache.py"
ATTENTION = "engine/model/attention.py"
ASR = "engine/model/asr.py"
ALIGNER = "engine/model/aligner.py"
LAYOUTS = "engine/checkpoint/layouts.py"
LOAD = "engine/checkpoint/load.py"
TOKENIZER = "engine/text/tokenizer.py"
PROMPT = "engine/text/prompt.py"


@dataclass(frozen=True)
class Edit:
    """One exact replacement in one file."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Plant:
    """One mistake. likely: pytest -k expression of the tests that should notice; they are tried first."""

    name: str
    likely: str
    edits: tuple[Edit, ...]


def _one(name: str, likely: str, path: str, old: str, new: str) -> Plant:
    return Plant(name, likely, (Edit(path, old, new),))


PLANTS = (
    # ---- log-mel
    _one(
        "mel: no floor under the peak",
        "log_mel",
        MEL,
        "mx.maximum(logarithm, mx.max(logarithm) - _FLOOR_BELOW_PEAK)",
        "mx.maximum(logarithm, -10.0)",
    ),
    _one(
        "mel: floor from each frame's own peak",
        "log_mel",
        MEL,
        "mx.max(logarithm) - ",
        "mx.max(logarithm, axis=-1, keepdims=True) - ",
    ),
    _one(
        "mel: frame count rounded up",
        "log_mel",
        MEL,
        "sample_count // HOP_SAMPLES)",
        "-(-sample_count // HOP_SAMPLES))",
    ),
    Plant(
        "mel: edges padded with zeros",
        "log_mel",
        (
            Edit(MEL, "left = waveform[half:0:-1]", "left = mx.zeros(half)"),
            Edit(MEL, "right = waveform[-2 : -half - 2 : -1]", "right = mx.zeros(half)"),
        ),
    ),
    _one(
        "mel: reflection repeats the edge sample",
        "log_mel",
        MEL,
        "left = waveform[half:0:-1]",
        "left = waveform[:half][::-1]",
    ),
    _one(
        "mel: symmetric Hann window",
        "log_mel",
        MEL,
        "np.arange(FFT_SIZE) / FFT_SIZE",
        "np.arange(FFT_SIZE) / (FFT_SIZE - 1)",
    ),
    _one(
        "mel: filters without area norm",
        "log_mel",
        MEL,
        "(triangles * (2.0 / (edges[2:] - edges[:-2])))",
        "triangles",
    ),
    _one(
        "mel: magnitude for power",
        "log_mel",
        MEL,
        "return mx.square(spectrum.real) + mx.square(spectrum.imag)",
        "return mx.abs(spectrum)",
    ),
    # ---- encoder
    _one(
        "encoder: windows of 4 s",
        "encoder",
        CONFIG,
        "(self.attention_frames // self.chunk_frames)",
        "(self.attention_frames // self.chunk_frames // 2)",
    ),
    _one(
        "encoder: windows ignored",
        "encoder",
        ENCODER,
        "            counts,\n            self.config.tokens_per_window,",
        "            counts,\n            1_000_000,",
    ),
    _one(
        "encoder: tail chunk at its own width",
        "encoder",
        ENCODER,
        "        by_width: dict[int, list[mx.array]] = {}\n",
        "        if any(mel.shape[0] > frames and mel.shape[0] % frames for mel in mels):\n"
        "            return [\n"
        "                mx.concatenate(\n"
        "                    [self._stem_tokens([m[i : i + frames]])[0] for i in range(0, m.shape[0], frames)]\n"
        "                )\n"
        "                for m in mels\n"
        "            ]\n"
        "        by_width: dict[int, list[mx.array]] = {}\n",
    ),
    _one(
        "encoder: a clip under a second padded to a chunk",
        "encoder",
        ENCODER,
        "if count > frames:",
        "if count:",
    ),
    _one("encoder: last partial token dropped", "encoder", CONFIG, "-(-rest // 8)", "rest // 8"),
    Plant(
        "encoder: positions run on over chunks",
        "encoder",
        (
            Edit(ENCODER, "sinusoids(config.tokens_per_chunk, ", "sinusoids(1500, "),
            Edit(
                ENCODER,
                "+ self.positions[: x.shape[1]]",
                "+ self.positions[: x.shape[0] * x.shape[1]].reshape(x.shape[0], x.shape[1], -1)",
            ),
        ),
    ),
    _one(
        "encoder: sines and cosines interleaved",
        "encoder",
        ENCODER,
        "np.concatenate([np.sin(angles), np.cos(angles)], axis=1)",
        "np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(length, channels)",
    ),
    _one(
        "encoder: timescales end one step late",
        "encoder",
        ENCODER,
        "(math.log(10_000.0) / (half - 1))",
        "(math.log(10_000.0) / half)",
    ),
    _one(
        "encoder: conv_out fed frequency-major",
        "encoder",
        ENCODER,
        "x = x.swapaxes(2, 3).reshape(",
        "x = x.reshape(",
    ),
    _one(
        "encoder: tanh GELU",
        "encoder",
        ENCODER,
        "return x * 0.5 * (1.0 + mx.erf(x * (1.0 / math.sqrt(2.0))))",
        "return 0.5 * x * (1.0 + mx.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))",
    ),
    _one(
        "encoder: epsilon 1e-3 in layer norms",
        "encoder",
        ENCODER,
        "parameters[1], 1e-5)",
        "parameters[1], 1e-3)",
    ),
    _one("encoder: ln_post left out", "encoder", ENCODER, "layer_norm(x, self.ln_post)", "x"),
    _one(
        "encoder: no GELU between the projections",
        "encoder",
        ENCODER,
        "self.proj2(self.gelu(self.proj1(",
        "self.proj2((self.proj1(",
    ),
    _one(
        "encoder: attention scaled by the model width",
        "encoder",
        ENCODER,
        "self.attention.attend(queries, ",
        "self.attention.attend(queries * self.head_count**-0.5, ",
    ),
    _one(
        "encoder: time and mel swapped in the kernels",
        "encoder",
        ENCODER,
        'weights.tensor("weight").swapaxes(1, 2)',
        'weights.tensor("weight").swapaxes(1, 1)',
    ),
    _one(
        "encoder: q, k, v biases left out",
        "encoder",
        ENCODER,
        'self.qkv = attention.projection("q_proj", "k_proj", "v_proj")',
        'self.qkv = attention.projection("q_proj", "k_proj", "v_proj")\n        self.qkv.bias = None',
    ),
    _one(
        "encoder: a clip's windows padded without a mask",
        "together",
        ENCODER,
        "attend(queries, keys, values, plan.mask)",
        "attend(queries, keys, values, None)",
    ),
    # ---- decoder
    _one(
        "decoder: epsilon 1e-5 in q_norm and k_norm",
        "logits",
        DECODER,
        "mx.fast.rms_norm(heads, None, eps)",
        "mx.fast.rms_norm(heads, None, 1e-5)",
    ),
    _one(
        "decoder: weights of q_norm and k_norm swapped",
        "logits",
        DECODER,
        'attention.tensor("q_norm.weight"), attention.tensor("k_norm.weight")',
        'attention.tensor("k_norm.weight"), attention.tensor("q_norm.weight")',
    ),
    Plant(
        "decoder: epsilon 1e-5 in the layers' norms",
        "logits",
        (
            Edit(DECODER, "self.attention_norm, self.config.rms_norm_eps", "self.attention_norm, 1e-5"),
            Edit(DECODER, "self.mlp_norm, self.config.rms_norm_eps", "self.mlp_norm, 1e-5"),
        ),
    ),
    _one(
        "decoder: rotation of neighboring pairs", "logits", DECODER, "traditional=False", "traditional=True"
    ),
    _one("decoder: rotation base 10,000", "logits", DECODER, "base=self.config.rope_theta", "base=10000.0"),
    _one(
        "decoder: query heads dealt to key heads in turn",
        "logits",
        DECODER,
        "all_keys, all_values = cache.append(layer, keys, values)",
        "groups = self.config.head_count // self.config.kv_head_count\n"
        "        all_keys, all_values = (mx.tile(a, (1, groups, 1, 1)) for a in cache.append(layer, keys, values))",
    ),
    _one(
        "decoder: attention scaled by half the head's width",
        "logits",
        ATTENTION,
        "scale = head_dim**-0.5",
        "scale = (head_dim / 2) ** -0.5",
    ),
    _one("decoder: gate and up swapped", "logits", DECODER, "gate, up = ", "up, gate = "),
    _one("decoder: GELU for SiLU", "logits", DECODER, "x * mx.sigmoid(x)", "x * mx.sigmoid(1.702 * x)"),
    _one(
        "decoder: final norm left out",
        "logits",
        DECODER,
        "mx.fast.rms_norm(layers[-1].after_attention(x, mixed), norm, eps)",
        "layers[-1].after_attention(x, mixed)",
    ),
    _one(
        "decoder: a head of its own ignored",
        "logits",
        DECODER,
        'if weights.has("lm_head.weight")',
        'if weights.has("no_such_head")',
    ),
    Plant(
        "decoder: audio embeddings one position early",
        "logits",
        (
            Edit(ASR, "prompt_ids[:first], dtype", "prompt_ids[: first - 1], dtype"),
            Edit(ASR, "prompt_ids[first + pads :], dtype", "prompt_ids[first + pads - 1 :], dtype"),
        ),
    ),
    _one(
        "decoder: generated positions one too far",
        "greedy",
        CACHE,
        "            return self.end - self._first()\n"
        "        return mx.array(np.asarray(self.lengths, dtype=np.int32))",
        "            return self.end - self._first() + (self.end > 0)\n"
        "        return mx.array(np.asarray(self.lengths, dtype=np.int32) + (self.end > 0))",
    ),
    _one(
        "decoder: padding in front of a row not masked",
        "greedy",
        CACHE,
        "columns[None, None, :] >= self._starts[:, None, None]",
        "columns[None, None, :] >= 0 * self._starts[:, None, None]",
    ),
    # ---- aligner
    _one(
        "aligner: timestamps read one position early, as a language model predicts",
        "aligner_logits",
        ALIGNER,
        "+ row * width for row",
        "+ row * width - 1 for row",
    ),
    _one(
        "aligner: attention in both directions",
        "aligner_logits",
        CACHE,
        'need no mask but this."""\n        return "causal"',
        'need no mask but this."""\n        return None',
    ),
    Plant(
        "aligner: rows padded in front without a mask",
        "one_call",
        (
            Edit(ALIGNER, "[(0, width - one.shape[0]), (0, 0)]", "[(width - one.shape[0], 0), (0, 0)]"),
            Edit(ALIGNER, "+ row * width for row", "+ (row + 1) * width - len(ids) for row"),
        ),
    ),
    _one(
        "aligner: the head without the final norm",
        "aligner_logits",
        ALIGNER,
        "logits = self.decoder.head(timestamps)",
        "logits = self.decoder.head(timestamps / self.decoder.norm)",
    ),
    _one(
        "aligner: one audio position for every clip",
        "one_call",
        ALIGNER,
        "zip(prompts, audio, strict=True)]",
        "zip(prompts, [audio[0][: len(a)] if len(audio[0]) >= len(a) else a for a in audio], strict=True)]",
    ),
    # ---- checkpoints
    _one(
        "checkpoint: kernels of the original layout turned the wrong way",
        "encoder",
        LOAD,
        "array.transpose(0, 2, 3, 1)",
        "array.transpose(0, 3, 2, 1)",
    ),
    Plant(
        "checkpoint: projector maps of the -hf layout swapped",
        "layout",
        (
            Edit(LAYOUTS, '"audio_tower.proj1."', '"audio_tower.proj."'),
            Edit(LAYOUTS, '"audio_tower.proj2."', '"audio_tower.proj1."'),
            Edit(LAYOUTS, '"audio_tower.proj."', '"audio_tower.proj2."'),
        ),
    ),
    # ---- text
    _one("text: no NFC", "text_parity", TOKENIZER, "backend.normalizer = normalizers.NFC()", "pass"),
    _one("text: NFKC for NFC", "text_parity", TOKENIZER, "normalizers.NFC()", "normalizers.NFKC()"),
    _one(
        "text: words split at inner capitals",
        "text_parity",
        TOKENIZER,
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?(?:\p{Lu}*[\p{Ll}\p{Lm}\p{Lo}]+|\p{Lu}+)",
    ),
    _one("text: contractions split in lower case only", "text_parity", TOKENIZER, "(?i:'s|", "(?:'s|"),
    _one(
        "text: apostrophes split by no rule of their own",
        "text_parity",
        TOKENIZER,
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|",
        "",
    ),
    _one("text: punctuation without its space", "text_parity", TOKENIZER, r"\p{N}| ?[^\s", r"\p{N}|[^\s"),
    _one(
        "text: a space put in front",
        "text_parity",
        TOKENIZER,
        "add_prefix_space=False",
        "add_prefix_space=True",
    ),
    _one(
        "text: the text tag dropped with the special tokens",
        "text_parity",
        TOKENIZER,
        "if token not in self._dropped:",
        "if False:",
    ),
    _one(
        "text: no system turn without a context",
        "text_parity",
        PROMPT,
        "tokenizer.encode_text(f\"system\\n{context or ''}\")",
        '(tokenizer.encode_text(f"system\\n{context}") if context else [])',
    ),
    _one(
        "text: a newline after the context",
        "text_parity",
        PROMPT,
        "{context or ''}\")",
        "{context or ''}\\n\")",
    ),
    _one(
        "text: repetitions collapsed one later",
        "text_parity",
        PROMPT,
        "_REPEATS_THAT_COLLAPSE = 20",
        "_REPEATS_THAT_COLLAPSE = 21",
    ),
)
