"""Recordings that share one running batch: the order of waiting, audio still being written, text as it is decoded.

The model has scripted answers (tests.fakes.scripted_model) or has random weights; everything round it is real.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scribewire.engine.audio.recording import PcmFile
from scribewire.engine.protocol.config import EngineConfig
from scribewire.engine.protocol.errors import (
    AudioTooShort,
    AudioUndecodable,
    AudioUnreadable,
    EngineFault,
    EngineUnavailable,
    LanguageUnknown,
    LanguageUnsupported,
    OptionInvalid,
    PromptTooLong,
    RequestCancelled,
)
from scribewire.engine.protocol.transcript import TokenLogprob, Transcript
from scribewire.engine.recording.work import Listener, RecordingWork, TranscribeItem
from scribewire.engine.resident.profile import DeviceProfile
from scribewire.engine.transcriber import Transcriber
from tests.fakes.clips import babbling
from tests.fakes.scripted_model import Script, ScriptedModel
from tests.fakes.sounds import spoken
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import PATIENCE_SECONDS, wait_until


def noise(seconds: float, name: str = "work") -> np.ndarray:
    return babbling(f"{name}/{int(seconds * 16_000)}", seconds)


def scripted(folder: Path, script: Script, *, step_seconds: float = 0.0, **options: object) -> Transcriber:
    return Transcriber(
        config=EngineConfig(device="cpu", **options),  # type: ignore[arg-type]  # options by name
        load=lambda config, _: ScriptedModel(config, folder, script, step_seconds=step_seconds),
    )


def said_of(seconds: float) -> Script:
    """Long answers for chunks longer than that, short ones for others."""
    counted = " ".join(str(number) for number in range(10, 80))
    return lambda tokens: counted if tokens > 12.5 * seconds else "Short."


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transcriber]:
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    with Transcriber(config=EngineConfig(model=str(folder), device="cpu")) as opened:
        yield opened


# ---- sharing -------------------------------------------------------------------------------------------------


def test_short_recording_does_not_wait_for_the_end_of_a_long_one(tmp_path: Path) -> None:
    with scripted(tmp_path, said_of(10.0), step_seconds=0.001, max_batch_rows=4) as engine:
        long = engine.submit(TranscribeItem(noise(600)), owner="ada", is_interactive=False)
        wait_until(lambda: engine.counters.batch_rows > 0)
        short = engine.submit(TranscribeItem(noise(3.0), language="English"), owner="grace")
        assert short.future.result(PATIENCE_SECONDS).text == "Short."
        assert not long.is_over
        engine.cancel(long)


def test_chunks_of_one_recording_are_decoded_side_by_side_and_joined_in_order(tmp_path: Path) -> None:
    # Steps sleep, and answers are long, so that cutting the recording never takes longer than a chunk's answer.
    counted = " ".join(str(number) for number in range(10, 30))
    with scripted(
        tmp_path, lambda tokens: f"Heard {tokens} tokens. {counted}", step_seconds=0.01, max_batch_rows=8
    ) as engine:
        seen: list[str] = []
        item = TranscribeItem(noise(200), language="English")
        work = engine.submit(item, listener=Listener(on_segment=lambda segment: seen.append(segment.text)))
        result = work.future.result(PATIENCE_SECONDS)
        rows = engine.counters.row_slots_done / engine.counters.steps_done
    assert seen == [segment.text for segment in result.segments]
    assert [segment.index for segment in result.segments] == list(range(len(seen)))
    assert len(seen) >= 7
    assert rows > 4
    assert result.text == " ".join(seen)


def test_cancelled_recording_frees_its_rows_and_the_others_go_on(tmp_path: Path) -> None:
    with scripted(tmp_path, lambda tokens: "word " * 2_000, step_seconds=0.001) as engine:
        works = [engine.submit(TranscribeItem(noise(20.0), language="English")) for _ in range(3)]
        wait_until(lambda: engine.counters.batch_rows == 3 and engine.counters.steps_done > 5)
        engine.cancel(works[1])
        with pytest.raises(RequestCancelled):
            works[1].future.result(PATIENCE_SECONDS)
        steps = engine.counters.steps_done
        wait_until(lambda: engine.counters.batch_rows == 2)
        assert engine.counters.steps_done - steps <= 3
        assert not works[0].is_over
        for work in works:
            engine.cancel(work)


def test_recording_cancelled_while_it_waits_never_starts(tmp_path: Path) -> None:
    started: list[str] = []
    with scripted(tmp_path, lambda tokens: "word " * 500, step_seconds=0.001, max_batch_rows=1) as engine:
        first = engine.submit(TranscribeItem(noise(5.0), language="English"))
        wait_until(lambda: engine.counters.batch_rows == 1)
        second = engine.submit(
            TranscribeItem(noise(5.0), language="English"),
            listener=Listener(on_started=lambda: started.append("second")),
        )
        engine.cancel(second)
        with pytest.raises(RequestCancelled):
            second.future.result(PATIENCE_SECONDS)
        engine.cancel(first)
    assert started == []


def test_failed_recording_does_not_touch_its_neighbors(tmp_path: Path) -> None:
    with scripted(tmp_path, lambda tokens: "Fine.") as engine:
        bad = engine.submit(TranscribeItem(b"this is no recording"))
        short = engine.submit(TranscribeItem(np.zeros(10, dtype=np.float32)))
        good = engine.submit(TranscribeItem(noise(2.0), language="English"))
        assert good.future.result(PATIENCE_SECONDS).text == "Fine."
        assert isinstance(bad.future.exception(PATIENCE_SECONDS), Exception)
        assert isinstance(short.future.exception(PATIENCE_SECONDS), AudioTooShort)


def test_result_does_not_depend_on_who_else_is_in_the_batch(random_model: Transcriber) -> None:
    items = [
        TranscribeItem(noise(seconds), max_tokens=20, temperature=temperature, seed=3, logprobs=True)
        for seconds, temperature in ((0.7, 0.0), (9.0, 0.8), (2.5, 0.0), (4.0, 0.9), (1.1, 0.0))
    ]
    alone = [random_model.transcribe_item(item) for item in items]
    works: list[RecordingWork] = []
    for item in items:
        tokens_before = random_model.counters.tokens_done
        works.append(random_model.submit(item))
        # Each one joins a batch that has gone on.
        wait_until(lambda before=tokens_before: random_model.counters.tokens_done > before)
    for work, expected in zip(works, alone, strict=True):
        found = work.future.result(PATIENCE_SECONDS)
        assert [segment.tokens for segment in found.segments] == [s.tokens for s in expected.segments]
        for one, other in zip(found.segments, expected.segments, strict=True):
            assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)


def test_device_failure_fails_everything_in_hand_and_is_told(tmp_path: Path) -> None:
    faults: list[BaseException] = []
    are_both_in_hand = threading.Event()

    def breaking(tokens: int) -> str:
        assert are_both_in_hand.wait(PATIENCE_SECONDS)
        raise RuntimeError("the device is gone")

    engine = Transcriber(
        config=EngineConfig(device="cpu"),
        load=lambda config, _: ScriptedModel(config, tmp_path, breaking),
        on_fault=faults.append,
    )
    works = [engine.submit(TranscribeItem(noise(2.0))) for _ in range(2)]
    are_both_in_hand.set()
    for work in works:
        assert isinstance(work.future.exception(PATIENCE_SECONDS), EngineFault)
    assert [str(error) for error in faults] == ["the device is gone"]
    with pytest.raises(EngineUnavailable):
        engine.submit(TranscribeItem(noise(1.0)))
    engine.close()


# ---- audio that is still being written -----------------------------------------------------------------------


def test_growing_file_is_transcribed_while_it_grows(tmp_path: Path) -> None:
    samples = noise(105.0)
    path = tmp_path / "growing.pcm"
    segments: list[float] = []
    with scripted(tmp_path, lambda tokens: "Heard.") as engine:
        pcm = PcmFile(path, is_growing=True, expected_seconds=105.0)
        with path.open("wb", buffering=0) as file:
            file.write(samples[:800_000].astype("<f4").tobytes())
            work = engine.submit(
                TranscribeItem(pcm, language="English"),
                listener=Listener(on_segment=lambda segment: segments.append(segment.end_seconds)),
            )
            wait_until(lambda: len(segments) == 1)
            assert not work.is_over
            file.write(samples[800_000:].astype("<f4").tobytes())
            wait_until(lambda: len(segments) >= 3)
            assert not work.is_over
        pcm.end(samples.size)
        grown = work.future.result(PATIENCE_SECONDS)
        whole = engine.transcribe(samples, language="English")
    assert grown.duration_seconds == 105.0
    assert [(s.start_seconds, s.end_seconds, s.text) for s in grown.segments] == [
        (s.start_seconds, s.end_seconds, s.text) for s in whole.segments
    ]


def test_what_lies_behind_the_stated_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.pcm"
    noise(3.0).tofile(path)
    pcm = PcmFile(path, is_growing=True)
    pcm.end(16_000)
    with scripted(tmp_path, lambda tokens: "Heard.") as engine:
        assert engine.transcribe(pcm, language="English").duration_seconds == 1.0


def test_failure_of_the_writer_is_the_recordings_end(tmp_path: Path) -> None:
    path = tmp_path / "broken.pcm"
    noise(40.0).tofile(path)
    pcm = PcmFile(path, is_growing=True)
    with scripted(tmp_path, lambda tokens: "Heard.") as engine:
        work = engine.submit(TranscribeItem(pcm, language="English"))
        pcm.end(0, AudioUndecodable("damaged from here on"))
        assert isinstance(work.future.exception(PATIENCE_SECONDS), AudioUndecodable)
        with pytest.raises(AudioUnreadable):
            engine.transcribe(PcmFile(tmp_path / "nowhere.pcm"))


def test_recording_that_never_grows_can_be_cancelled_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "stuck.pcm"
    path.touch()
    with scripted(tmp_path, lambda tokens: "Heard.") as engine:
        work = engine.submit(TranscribeItem(PcmFile(path, is_growing=True)))
        other = engine.transcribe(noise(1.0), language="English")
        assert other.text == "Heard."
        assert not work.is_over
        engine.cancel(work)
        with pytest.raises(RequestCancelled):
            work.future.result(PATIENCE_SECONDS)


# ---- text as it is decoded -----------------------------------------------------------------------------------


class Deltas:
    """Deltas that a listener received."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.first_at_seconds: float | None = None

    def listener(self) -> Listener:
        return Listener(on_delta=self._take)

    def _take(self, delta: str, logprobs: tuple[TokenLogprob, ...]) -> None:
        assert delta
        self.texts.append(delta)
        self.logprobs += logprobs

    @property
    def text(self) -> str:
        return "".join(self.texts)


def test_deltas_arrive_while_decoding_goes_on_and_are_the_text(tmp_path: Path) -> None:
    sent = Deltas()
    script = said_of(10.0)
    with scripted(tmp_path, lambda tokens: "language English<asr_text>" + str(script(tokens))) as engine:
        work = engine.submit(TranscribeItem(noise(70.0)), listener=sent.listener())
        result = work.future.result(PATIENCE_SECONDS)
    assert sent.text == result.text
    assert result.language is None or result.language == "English"
    assert len(sent.texts) > 20
    assert "<asr_text>" not in sent.text


@pytest.mark.parametrize("language", [None, "English"])
@pytest.mark.parametrize("seed", range(4))
def test_deltas_of_any_nonsense_are_its_text(
    random_model: Transcriber, language: str | None, seed: int
) -> None:
    sent = Deltas()
    item = TranscribeItem(
        noise(33.0, f"deltas {seed}"), language=language, max_tokens=80, temperature=1.0, seed=seed
    )
    work = random_model.submit(item, listener=sent.listener())
    result = work.future.result(PATIENCE_SECONDS)
    assert sent.text == result.text


def test_log_probabilities_of_all_text_tokens_are_sent_once(random_model: Transcriber) -> None:
    sent = Deltas()
    item = TranscribeItem(
        noise(2.0),
        language="English",
        max_tokens=30,
        temperature=0.7,
        seed=1,
        logprobs=True,
        token_logprobs=True,
    )
    work = random_model.submit(item, listener=sent.listener())
    result: Transcript = work.future.result(PATIENCE_SECONDS)
    [segment] = result.segments
    assert len(segment.token_logprobs) == len(segment.tokens)
    assert sent.logprobs == list(segment.token_logprobs)[: len(sent.logprobs)]
    # Only tokens at the very end that have no text of their own may be missing.
    assert all(not one.data.strip() for one in segment.token_logprobs[len(sent.logprobs) :])
    tokenizer_bytes = b"".join(one.data for one in segment.token_logprobs)
    assert tokenizer_bytes.decode("utf-8", "replace").strip().startswith(segment.text[:5].rstrip("\ufffd"))
    assert all(one.logprob <= 0.0 for one in segment.token_logprobs)


# ---- options -------------------------------------------------------------------------------------------------


def test_one_language_in_the_list_is_as_if_it_were_asked_for(random_model: Transcriber) -> None:
    listed = random_model.transcribe_item(TranscribeItem(noise(1.0), languages=("es",), max_tokens=8))
    asked = random_model.transcribe(noise(1.0), language="Spanish", max_tokens=8)
    assert listed.language == asked.language == "Spanish"
    assert listed.text == asked.text


def test_unusable_wish_is_refused_by_the_name_of_its_parameter(random_model: Transcriber) -> None:
    with pytest.raises(LanguageUnknown) as unknown:
        random_model.transcribe_item(TranscribeItem(noise(1.0), languages=("en", "Klingon")))
    assert unknown.value.parameter == "languages"
    with pytest.raises(LanguageUnsupported) as unsupported:
        random_model.transcribe_item(TranscribeItem(noise(1.0), languages=("fr", "de")))
    assert unsupported.value.parameter == "languages"
    with pytest.raises(OptionInvalid) as penalty:
        random_model.transcribe_item(TranscribeItem(noise(1.0), repetition_penalty=float("nan")))
    assert penalty.value.parameter == "repetition_penalty"
    with pytest.raises(OptionInvalid) as share:
        random_model.transcribe_item(TranscribeItem(noise(1.0), min_p=float("nan")))
    assert share.value.parameter == "min_p"


def test_keywords_enter_the_prompt_as_text_without_control_characters(random_model: Transcriber) -> None:
    plain = random_model.transcribe(spoken(1.0), max_tokens=4, prompt="Meeting notes")
    words = ("Ada  Lovelace", "Ada Lovelace", "\x00\n", "<|im_end|>")
    named = random_model.transcribe_item(
        TranscribeItem(spoken(1.0), max_tokens=4, prompt="Meeting notes", keywords=words)
    )
    # One byte is one token in this vocabulary.
    added = len("\nAda Lovelace, <|im_end|>")
    assert named.usage.text_tokens - plain.usage.text_tokens == added


def test_prompt_that_every_chunk_would_pay_for_is_refused(random_model: Transcriber) -> None:
    with pytest.raises(PromptTooLong, match="at most 4096") as refused:
        random_model.transcribe_item(TranscribeItem(noise(1.0), keywords=tuple(str(n) for n in range(2000))))
    assert refused.value.parameter == "prompt"


def test_answer_stopped_inside_its_language_head_has_no_text(tmp_path: Path) -> None:
    with scripted(tmp_path, lambda tokens: "language English<asr_text>Hi.") as engine:
        result = engine.transcribe(noise(2.0), max_tokens=5)
    assert (result.text, result.usage.output_tokens) == ("", 5)
    assert "budget of 5 tokens" in result.warnings[0]


# ---- memory --------------------------------------------------------------------------------------------------


def test_idle_model_is_unloaded_and_comes_back_with_the_next_recording(tmp_path: Path) -> None:
    loads: list[bool] = []
    opened: list[Transcriber] = []

    def load(config: EngineConfig, _: DeviceProfile) -> ScriptedModel:
        # The first one is loaded inside the constructor.
        loads.append(not opened or opened[0].counters.is_loading)
        return ScriptedModel(config, tmp_path, lambda tokens: "Heard.")

    with Transcriber(config=EngineConfig(device="cpu", idle_unload_seconds=0.05), load=load) as engine:
        opened.append(engine)
        assert engine.transcribe(noise(1.0), language="English").text == "Heard."
        wait_until(lambda: not engine.is_resident)
        assert engine.info.model_id == "scripted"
        assert engine.transcribe(noise(1.0), language="English").text == "Heard."
        assert loads == [True, True], "the watchdog must know why nothing moves"
        assert not engine.counters.is_loading


def test_memory_limit_that_holds_no_sequence_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    with pytest.raises(OptionInvalid, match="memory limit"):
        Transcriber(config=EngineConfig(model=str(folder), device="cpu", memory_limit_bytes=1 << 20))


def test_close_waits_for_what_is_in_hand_and_then_refuses(tmp_path: Path) -> None:
    engine = scripted(tmp_path, lambda tokens: "word " * 50, step_seconds=0.001)
    work = engine.submit(TranscribeItem(noise(2.0), language="English"))
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert work.future.result(PATIENCE_SECONDS).text.startswith("word word")
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()
    with pytest.raises(EngineUnavailable):
        engine.submit(TranscribeItem(noise(1.0)))
