"""Retried uploads: what may be shared, with which owner, for how long, and what ends with the last waiter."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scribewire.engine.protocol.config import Chunking, TranscribeOptions
from scribewire.engine.protocol.errors import AudioUndecodable, EngineError, EngineUnavailable
from scribewire.engine.protocol.messages import Completed, Progress, SegmentDone, Started, TextDelta
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.server.engine.requests import TranscriptionEvent
from scribewire.server.transcription.sharing import Retry, SharedWork
from tests.fakes.waiting import PATIENCE_SECONDS, let_others_run, run, wait_until_async
from tests.http.shared_work_story import PLAIN, Story, TranscriptionService, transcript


@pytest.fixture
def run_story(tmp_path: Path):
    """Run one coroutine over a Story; whatever it did, no upload is left when all has ended."""

    def run_one(story, **settings) -> None:
        async def whole() -> None:
            stage = Story(tmp_path, **settings)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await story(stage)
                await stage.shared.stop()
            await let_others_run()
            assert stage.files() == []

        run(whole())

    return run_one


def test_twins_share_one_work_and_its_transcript(run_story):
    async def story(stage: Story):
        retries: list[Retry] = []
        first = stage.ask()
        work = await stage.work()
        second = stage.ask(retries=retries)
        await wait_until_async(lambda: retries)
        assert len(stage.files()) == 1, "the joiner's copy is not needed"
        work.complete(transcript())
        assert (await first) is (await second)
        assert retries == ["joined"]
        assert len(stage.service.begun) == 1

    run_story(story)


def test_retry_after_the_end_takes_the_result(run_story):
    async def story(stage: Story):
        first = stage.ask()
        (await stage.work()).complete(transcript())
        await first
        retries: list[Retry] = []
        stage.now += 599
        assert (await stage.ask(retries=retries)).text == "Hello there."
        assert retries == ["finished"]
        assert len(stage.service.begun) == 1

    run_story(story)


@pytest.mark.parametrize("jump", [600, 7200])
def test_result_is_decoded_again_after_the_window(run_story, jump: float):
    async def story(stage: Story):
        first = stage.ask()
        (await stage.work()).complete(transcript("first"))
        await first
        stage.now += jump
        second = stage.ask()
        (await stage.work(2)).complete(transcript("second"))
        assert (await second).text == "second"

    run_story(story)


@pytest.mark.parametrize(
    "other",
    [
        {"owner": "bob"},
        {"content": "b"},
        {"options": replace(PLAIN, language="es")},
        {"options": replace(PLAIN, prompt="Zoë")},
        {"options": replace(PLAIN, temperature=0.5)},
        {"options": replace(PLAIN, seed=1)},
        {"options": replace(PLAIN, max_tokens=10)},
        {"options": replace(PLAIN, languages=("en", "es"))},
        {"options": replace(PLAIN, keywords=("Zoë",))},
        {"options": replace(PLAIN, model="another/model")},
        *({"options": replace(PLAIN, **one)} for one in ({"repetition_penalty": 1.1}, {"min_p": 0.1})),
        *({"options": replace(PLAIN, words=True, words_optional=optional)} for optional in (False, True)),
        {"options": replace(PLAIN, speakers=SpeakerOptions())},
        {"options": replace(PLAIN, chunking=Chunking(rule="voice"))},
        {"options": replace(PLAIN, logprobs=True)},
        {"options": replace(PLAIN, logprobs=True, token_logprobs=True)},
    ],
    ids=str,
)
def test_what_differs_is_not_shared_running_or_finished(run_story, other: dict):
    async def story(stage: Story):
        retries: list[Retry] = []
        first = stage.ask()
        mine = await stage.work()
        second = stage.ask(**other, retries=retries)
        (await stage.work(2)).complete(transcript("other"))
        mine.complete(transcript("mine"))
        assert ((await first).text, (await second).text) == ("mine", "other")
        assert (await stage.ask()).text == "mine"
        assert (await stage.ask(**other)).text == "other"
        assert retries == []
        assert len(stage.service.begun) == 2

    run_story(story)


def test_every_option_is_part_of_what_must_agree():
    tested = {
        "language", "prompt", "temperature", "seed", "max_tokens", "languages", "keywords", "min_p",
        "repetition_penalty", "logprobs", "token_logprobs", "words", "words_optional", "speakers", "chunking", "model",
    }  # fmt: skip
    assert set(TranscribeOptions.__dataclass_fields__) == tested


def test_log_probabilities_serve_those_who_want_none(run_story):
    async def story(stage: Story):
        rich = TranscribeOptions(logprobs=True, token_logprobs=True)
        first = stage.ask(options=rich)
        work = await stage.work()
        retries: list[Retry] = []
        second = stage.ask(retries=retries)
        await wait_until_async(lambda: retries)
        work.complete(transcript(logprobs=True))
        assert (await second) is (await first)
        for asked, entries in ((replace(rich, token_logprobs=False), []), (rich, ["Hello", "there."])):
            heard: list[TranscriptionEvent] = []
            await stage.ask(options=asked, wants_deltas=True, heard=heard, retries=retries)
            (delta,) = deltas_in(heard)
            assert delta.delta == "Hello there."
            assert [entry.text for entry in delta.logprobs] == entries
        assert retries == ["joined", "finished", "finished"]

    run_story(story)


def test_sampling_without_a_seed_is_shared_too(run_story):
    async def story(stage: Story):
        warm = replace(PLAIN, temperature=0.8)
        first = stage.ask(options=warm)
        (await stage.work()).complete(transcript("sampled"))
        assert (await first).text == (await stage.ask(options=warm)).text == "sampled"

    run_story(story)


def test_window_of_zero_shares_nothing(run_story):
    async def story(stage: Story):
        first, second = stage.ask(), stage.ask()
        await stage.work(2)
        for running in stage.service.begun:
            running.complete(transcript())
        await first
        await second
        third = stage.ask()
        (await stage.work(3)).complete(transcript("third"))
        assert (await third).text == "third"

    run_story(story, window_seconds=0)


def test_failure_reaches_everyone_who_waits_and_is_not_remembered(run_story):
    async def story(stage: Story):
        first = stage.ask()
        work = await stage.work()
        retries: list[Retry] = []
        second = stage.ask(retries=retries)
        await wait_until_async(lambda: retries)
        work.fail(AudioUndecodable("not audio", parameter="file"))
        for asked in (first, second):
            with pytest.raises(AudioUndecodable):
                await asked
        third = stage.ask()
        (await stage.work(2)).complete(transcript("well"))
        assert (await third).text == "well"

    run_story(story)


def test_last_to_leave_cancels_the_work_at_once(run_story):
    async def story(stage: Story):
        first = stage.ask()
        work = await stage.work()
        retries: list[Retry] = []
        second = stage.ask(retries=retries)
        await wait_until_async(lambda: retries)
        first.cancel()
        await let_others_run()
        assert not work.is_cancelled, "another request waits for it"
        assert work.path.exists()
        second.cancel()
        await wait_until_async(lambda: work.is_cancelled)
        assert first.cancelled()
        assert second.cancelled()
        await wait_until_async(lambda: not stage.files())

    run_story(story)


def test_who_stays_gets_the_work_that_another_one_began(run_story):
    async def story(stage: Story):
        first = stage.ask()
        work = await stage.work()
        retries: list[Retry] = []
        second = stage.ask(retries=retries)
        await wait_until_async(lambda: retries)
        first.cancel()
        await let_others_run()
        work.complete(transcript("for the second"))
        assert (await second).text == "for the second"

    run_story(story)


def test_cancelled_work_is_not_joined(run_story):
    async def story(stage: Story):
        first = stage.ask()
        abandoned = await stage.work()
        first.cancel()
        second = stage.ask()  # in the same moment, before the cancelled task has ended
        work = await stage.work(2)
        work.complete(transcript("anew"))
        assert (await second).text == "anew"
        assert abandoned.is_cancelled

    run_story(story)


def test_work_cancelled_before_its_first_step_leaves_no_file(run_story):
    async def story(stage: Story):
        asked = stage.ask()
        await asyncio.sleep(0)  # the request has begun its work; the work's task has not run yet
        await stage.shared.stop()
        with pytest.raises(EngineUnavailable):
            await asked
        assert stage.service.begun == []
        assert stage.files() == []

    run_story(story)


def deltas_in(heard: list[TranscriptionEvent]) -> list[TextDelta]:
    return [event for event in heard if isinstance(event, TextDelta)]


def texts_in(heard: list[TranscriptionEvent]) -> list[str]:
    return [delta.delta for delta in deltas_in(heard)]


def test_late_joiner_of_a_stream_gets_the_text_so_far_and_then_the_rest(run_story):
    async def story(stage: Story):
        early: list[TranscriptionEvent] = []
        late: list[TranscriptionEvent] = []
        first = stage.ask(wants_deltas=True, heard=early)
        work = await stage.work()
        work.say(Started("r"), TextDelta("r", "Hello"), TextDelta("r", " there"))
        await wait_until_async(lambda: len(early) == 3)
        second = stage.ask(wants_deltas=True, heard=late)
        await wait_until_async(lambda: late)
        assert late == [Started("r"), TextDelta("r", "Hello there")]
        work.say(TextDelta("r", "."))
        work.complete(transcript())
        assert (await first).text == (await second).text == "".join(texts_in(early))
        assert (texts_in(early), texts_in(late)) == (["Hello", " there", "."], ["Hello there", "."])

    run_story(story)


def test_plain_retry_joins_a_stream_but_a_stream_stays_live(run_story):
    async def story(stage: Story):
        retries: list[Retry] = []
        plainly: list[TranscriptionEvent] = []
        first = stage.ask(wants_deltas=True)
        streamed = await stage.work()
        second = stage.ask(retries=retries, heard=plainly)
        await wait_until_async(lambda: retries == ["joined"])
        streamed.say(TextDelta("r", "Hello there."))
        streamed.complete(transcript())
        await first
        await second
        assert plainly == [], "it asked for no deltas"

        plain = stage.ask("b")
        silent = await stage.work(2)
        assert not silent.wants_deltas, "nobody asked for deltas"
        live = stage.ask("b", wants_deltas=True, retries=retries)
        (await stage.work(3)).complete(transcript())
        silent.complete(transcript())
        await plain
        await live
        assert retries == ["joined"]

    run_story(story)


def test_finished_result_streams_at_once_and_silence_streams_nothing(run_story):
    async def story(stage: Story):
        for content, text in (("a", "Hello."), ("b", "")):
            first = stage.ask(content)
            (await stage.work(len(stage.service.begun) + 1)).complete(transcript(text))
            await first
        heard: list[TranscriptionEvent] = []
        await stage.ask(wants_deltas=True, wants_segments=True, heard=heard)
        segment = transcript("Hello.").segments[0]
        assert heard == [Started(""), SegmentDone("", segment), TextDelta("", "Hello.")]
        heard.clear()
        await stage.ask("b", wants_deltas=True, heard=heard)
        assert heard == [Started("")]

    run_story(story)


def test_joiner_hears_progress_and_segments_said_before(run_story):
    async def story(stage: Story):
        segment = SegmentDone("r", transcript().segments[0])
        early: list[TranscriptionEvent] = []
        first = stage.ask(wants_segments=True, heard=early)
        work = await stage.work()
        work.say(Progress("r", 1.0, 4.0), Progress("r", 2.0, 4.0), segment)
        await wait_until_async(lambda: len(early) == 3)
        heard: list[TranscriptionEvent] = []
        second = stage.ask(wants_segments=True, heard=heard)
        await wait_until_async(lambda: heard)
        work.say(Progress("r", 4.0, 4.0))
        work.complete(transcript())
        await first
        await second
        assert heard == [Progress("r", 2.0, 4.0), segment, Progress("r", 4.0, 4.0)]

    run_story(story)


def test_requests_that_take_nothing_hold_the_text_once_and_lose_none_of_it(run_story):
    """A slow client costs a position: ten of them hold no more than one, and a wait that is given up loses no event."""

    async def story(stage: Story):
        with contextlib.ExitStack() as held:
            views = [
                held.enter_context(
                    stage.shared.transcribe(stage.upload(), PLAIN, owner="ann", wants_deltas=True)
                )
                for _ in range(10)
            ]
            work = await stage.work()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(views[0])
            work.say(*(TextDelta("r", f"{number} ") for number in range(500)))
            work.complete(transcript("".join(f"{number} " for number in range(500))))
            await wait_until_async(lambda: not stage.files())
            (lists,) = {id(view._work.reported) for view in views}
            assert lists == id(views[0]._work.reported)
            assert all(not view._begun for view in views)
            for view in views:
                heard = [event async for event in view]
                assert isinstance(heard.pop(), Completed)
                assert texts_in(heard) == [f"{number} " for number in range(500)]
                with pytest.raises(StopAsyncIteration):
                    await anext(view)

    run_story(story)


def test_results_are_bounded_in_number_oldest_out(run_story):
    async def story(stage: Story):
        for count, content in enumerate("abc", start=1):
            asked = stage.ask(content)
            (await stage.work(count)).complete(transcript(content))
            await asked
        retries: list[Retry] = []
        for content in "bc":
            await stage.ask(content, retries=retries)
        assert retries == ["finished", "finished"]
        again = stage.ask("a", retries=retries)
        (await stage.work(4)).complete(transcript("anew"))
        assert (await again).text == "anew"

    run_story(story, max_results=2)


def test_results_are_bounded_in_bytes_and_a_huge_one_is_not_kept(run_story):
    async def story(stage: Story):
        for count, (content, text) in enumerate((("a", "x"), ("huge", "x" * 50_000)), start=1):
            asked = stage.ask(content)
            (await stage.work(count)).complete(transcript(text))
            await asked
        again = stage.ask("huge")
        (await stage.work(3)).complete(transcript("again"))
        assert (await again).text == "again"

    run_story(story, max_result_bytes=100_000)


def test_results_are_forgotten_in_time_without_another_request(tmp_path: Path):
    async def story():
        service = TranscriptionService()
        stage = Story(tmp_path)
        shared = SharedWork(service, window_seconds=0.05)
        stage.shared = shared
        asked = stage.ask()
        await wait_until_async(lambda: service.begun)
        result = transcript("private words")
        service.begun[0].complete(result)
        await asked
        service.begun.clear()
        del asked
        await wait_until_async(lambda: sys.getrefcount(result) <= baseline)

    baseline = 2  # the local name, and getrefcount's own argument
    run(story())


def test_stop_ends_running_work_with_an_error(run_story):
    async def story(stage: Story):
        asked = stage.ask()
        work = await stage.work()
        await stage.shared.stop()
        with pytest.raises(EngineUnavailable):
            await asked
        assert work.is_cancelled

    run_story(story)


def test_an_error_is_the_engines_own(run_story):
    async def story(stage: Story):
        asked = stage.ask()
        error = EngineUnavailable("between two workers")
        (await stage.work()).fail(error)
        with pytest.raises(EngineError) as raised:
            await asked
        assert raised.value is error

    run_story(story)
