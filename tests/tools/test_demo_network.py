"""The demo model's training network computes what PyTorch's native Qwen3-ASR computes.

Needs torch and transformers 5.17, which the product itself does not: skipped where they are not installed.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip(
    "torch", reason="the training network needs torch, which the product does not install"
)
transformers = pytest.importorskip("transformers", reason="the reference implementation is optional")

from tools.demo_model import network

pytestmark = pytest.mark.torch

SIZE = network.Size(vocabulary=192, audio_layers=2, audio_width=128, audio_heads=2, audio_ffn=192, stem_channels=8,
                    width=64, layers=2, ffn=96)  # fmt: skip
AUDIO_TOKEN = 190


def random_parameters() -> dict[str, Any]:
    parameters = network.initial_parameters(SIZE, seed=3)
    generator = torch.Generator().manual_seed(4)
    # Norms and biases are random too, or a forgotten one would not show.
    for name, tensor in parameters.items():
        if tensor.ndim == 1:
            parameters[name] = tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
    return parameters


def reference_model(parameters: dict[str, Any]) -> Any:
    config = transformers.Qwen3ASRConfig(
        audio_config={
            "encoder_layers": SIZE.audio_layers, "encoder_attention_heads": SIZE.audio_heads,
            "encoder_ffn_dim": SIZE.audio_ffn, "d_model": SIZE.audio_width, "output_dim": SIZE.width,
            "downsample_hidden_size": SIZE.stem_channels,
        },
        text_config={
            "model_type": "qwen3", "vocab_size": SIZE.vocabulary, "hidden_size": SIZE.width,
            "intermediate_size": SIZE.ffn, "num_hidden_layers": SIZE.layers, "num_attention_heads": SIZE.heads,
            "num_key_value_heads": SIZE.kv_heads, "head_dim": SIZE.head_dim, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": SIZE.rope_theta},
        },
        audio_token_id=AUDIO_TOKEN,
    )  # fmt: skip
    model = transformers.Qwen3ASRForConditionalGeneration(config).eval()
    renamed = {}
    for name, tensor in parameters.items():
        name = name.replace("thinker.audio_tower.proj", "model.multi_modal_projector.linear_")
        name = name.replace("thinker.audio_tower", "model.audio_tower")
        renamed[name.replace("thinker.model", "model.language_model")] = tensor
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def clip(seconds: float, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    count = round(seconds * 16_000)
    swell = torch.sin(torch.arange(count) / 5000.0).abs() + 0.05
    return 0.1 * torch.randn(count, generator=generator) * swell


def reference_mel(waveform: Any) -> Any:
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    features = extractor(
        waveform.numpy(), sampling_rate=16_000, padding=False, truncation=False, return_tensors="pt"
    )
    return features["input_features"][0][:, : len(waveform) // 160]


def padded(clips: list[Any]) -> tuple[Any, Any]:
    counts = torch.tensor([len(one) for one in clips])
    batch = torch.full((len(clips), int(counts.max())), 0.7)  # what lies past an end must not matter
    for row, one in enumerate(clips):
        batch[row, : len(one)] = one
    return batch, counts


@pytest.fixture(scope="module")
def clips() -> list[Any]:
    return [clip(seconds, seed) for seed, seconds in enumerate((1.237, 2.5, 7.9, 8.1, 11.46, 1.0))]


def test_batched_mel_equals_the_reference_of_each_clip_alone(clips: list[Any]) -> None:
    batch, counts = padded(clips)
    mel, frames = network.log_mel(batch, counts, network.mel_filterbank())
    for row, one in enumerate(clips):
        wanted = reference_mel(one)
        assert int(frames[row]) == wanted.shape[1] == len(one) // 160
        assert (mel[row, :, : wanted.shape[1]] - wanted).abs().max() < 1e-4


def test_logits_of_a_batch_equal_the_reference_of_each_clip_alone(clips: list[Any]) -> None:
    parameters, tail = random_parameters(), [7, 8, 9, 10, 11]
    model = reference_model(parameters)
    batch, counts = padded(clips)
    mel, frames = network.log_mel(batch, counts, network.mel_filterbank())
    audio, tokens = network.encode(parameters, SIZE, mel, frames)
    longest = 3 + int(tokens.max()) + len(tail)
    ids = torch.zeros(len(clips), longest, dtype=torch.long)
    for row in range(len(clips)):
        ids[row, :3] = torch.tensor([1, 2, 3])
        ids[row, 3 + int(tokens[row]) : 3 + int(tokens[row]) + len(tail)] = torch.tensor(tail)
    starts = torch.full((len(clips),), 3)
    x = network.place_audio(network.embed(parameters, ids), audio, starts, tokens)
    scores = network.token_scores(parameters, network.decode(parameters, SIZE, x))
    for row, one in enumerate(clips):
        count = int(tokens[row])
        own_mel = reference_mel(one)
        features = torch.nn.functional.pad(own_mel, (0, -own_mel.shape[1] % 100))[None]
        mask = (torch.arange(features.shape[2]) < own_mel.shape[1]).long()[None]
        row_ids = torch.tensor([[1, 2, 3] + [AUDIO_TOKEN] * count + tail])
        with torch.no_grad():
            wanted = model(input_ids=row_ids, input_features=features, input_features_mask=mask).logits[0]
        got = scores[row, : row_ids.shape[1]]
        assert (got - wanted).abs().max() / wanted.abs().max() < 1e-4, f"clip {row}"


def test_clip_under_a_second_is_convolved_at_its_own_width() -> None:
    parameters = random_parameters()
    mel, frames = network.log_mel(*padded([clip(0.43, 1), clip(0.95, 2)]), network.mel_filterbank())
    batched, counts = network.encode(parameters, SIZE, mel, frames)
    width = int(frames[0])
    narrow = mel[:1, :, :width].reshape(1, 1, 128, width)
    tower = "thinker.audio_tower."
    for number in (1, 2, 3):
        weight, bias = parameters[f"{tower}conv2d{number}.weight"], parameters[f"{tower}conv2d{number}.bias"]
        narrow = torch.nn.functional.gelu(torch.nn.functional.conv2d(narrow, weight, bias, 2, 1))
    narrow = narrow.permute(0, 3, 1, 2).flatten(2) @ parameters[f"{tower}conv_out.weight"].T
    wide = network._stem(parameters, torch.nn.functional.pad(mel, (0, 100 - mel.shape[2])), frames)
    positions = network.chunk_positions(SIZE.audio_width, narrow.device)
    count = int(counts[0])
    assert narrow.shape[1] == count
    assert torch.allclose(wide[0, :count], narrow[0] + positions[:count], atol=1e-5)
    assert torch.isfinite(batched[0, :count]).all()


def test_decoding_step_by_step_equals_the_whole_pass() -> None:
    parameters = random_parameters()
    lengths = torch.tensor([9, 5])
    ids = torch.randint(0, 180, (2, 14), generator=torch.Generator().manual_seed(5))
    whole = network.decode(parameters, SIZE, network.embed(parameters, ids))
    shape = (2, SIZE.kv_heads, 14, SIZE.head_dim)
    cache = network.KeyValueCache(
        [torch.zeros(shape) for _ in range(SIZE.layers)], [torch.zeros(shape) for _ in range(SIZE.layers)]
    )
    network.decode(parameters, SIZE, network.embed(parameters, ids[:, :9]), cache)
    for step in range(4):
        positions = lengths + step
        one = ids.gather(1, positions[:, None])
        hidden = network.decode(parameters, SIZE, network.embed(parameters, one), cache, positions)
        wanted = whole[torch.arange(2), positions]
        assert torch.allclose(hidden[:, 0], wanted, atol=1e-4)
