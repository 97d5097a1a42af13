"""Speech for subtitles: seeded segments in many scripts, with and without word times, tame and wild."""

from __future__ import annotations

import random

from scribewire.engine.protocol.transcript import Segment, Word, words_text


def _words(text: str) -> list[str]:
    return text.split()


ENGLISH = _words(
    "well I think that we should go there tomorrow because the weather will be much better than it is today "
    "and nobody knows how long incomprehensibilities last in 1998 or at 10:30 don't you think so"
)
GERMAN = _words(
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung über Straßen möchte ich nicht"
)
ARABIC = _words("مرحبا كيف حالك اليوم نحن نتحدث عن الطقس الجميل في المدينة القديمة")
HINDI = _words("नमस्ते आज मौसम बहुत अच्छा है हम क्षेत्र में घूमने जाएँगे विद्यार्थियों के साथ")
KOREAN = _words("안녕하세요 여러분 오늘은 날씨가 아주 좋습니다 함께 공원에 갑시다")
CHINESE = list("今天天气很好我们一起去公园散步吧然后可以吃饭你觉得怎么样呢")
JAPANESE = [
    "今日",
    "は",
    "天気",
    "が",
    "いい",
    "です",
    "ね",
    "と",
    "彼",
    "は",
    "言い",
    "まし",
    "た",
    "データ",
    "っ",
]
THAI = ["วันนี้", "อากาศ", "ดี", "มาก", "เรา", "จะ", "ไป", "เที่ยว", "ที่", "สวนสาธารณะ", "กัน"]
MIXED = [
    "我们",
    "讨论",
    "Kubernetes",
    "和",
    "PostgreSQL",
    "的",
    "问题",
    "👩‍👩‍👧",
    "🇩🇪",
    "e\u0301te\u0301",
    "x" * 50,
]

VOCABULARIES: dict[str, tuple[list[str], str, str, str]] = {
    "English": (ENGLISH, " ", ",", ".?!"),
    "German": (GERMAN, " ", ",;", "."),
    "Arabic": (ARABIC, " ", "،", ".؟"),
    "Hindi": (HINDI, " ", ",", "।"),
    "Korean": (KOREAN, " ", ",", "."),
    "Chinese": (CHINESE, "", "，、", "。？！"),
    "Japanese": (JAPANESE, "", "、", "。"),
    "Thai": (THAI, "", " ", " "),
    "Mixed": (MIXED, "", "，", "。"),
}
"""Of each language: words, what stands between them, marks within a sentence, marks at its end."""


def seeded_segments(
    language: str, seed: int, *, has_words: bool, count: int = 12, speakers: tuple[str, ...] = ()
) -> list[Segment]:
    """Segments as an engine may give them: slow and very fast, with pauses from none to minutes, words of no length."""
    chance = random.Random(f"{language} {seed} {has_words}")
    segments = []
    at = chance.choice([0.0, 0.37, 61.002])
    for index in range(count):
        segment = _segment(chance, language, index, at, has_words=has_words)
        if speakers:
            segment = Segment(**{**_fields(segment), "speaker": chance.choice(speakers)})
        segments.append(segment)
        at = segment.end_seconds + chance.choice([0.0, 0.0, 0.04, 0.3, 1.7, 150.0])
    return segments


def _segment(chance: random.Random, language: str, index: int, start: float, *, has_words: bool) -> Segment:
    vocabulary, space, clause_marks, sentence_marks = VOCABULARIES[language]
    seconds_per_word = chance.choice([0.0, 0.03, 0.12, 0.3, 0.6])
    words: list[Word] = []
    at = start
    for number in range(chance.choice([1, 2, 5, 20, 70])):
        text = chance.choice(vocabulary)
        pause = chance.choice([0.0, 0.0, 0.05])
        if chance.random() < 0.15:
            text += chance.choice(clause_marks).strip()
            pause = chance.choice([0.0, 0.3])
        elif chance.random() < 0.1:
            text += chance.choice(sentence_marks).strip()
            pause = chance.choice([0.2, 0.8, 3.0])
        seconds = seconds_per_word * chance.choice([0.0, 1.0, 1.0, 1.0, 2.0])
        words.append(Word(text, at, at + seconds, space if number else ""))
        at += seconds + (pause if seconds_per_word else 0.0)
    end = max(words[-1].end_seconds, start)
    return Segment(index, start, end, words_text(words), language, words=tuple(words) if has_words else ())


def _fields(segment: Segment) -> dict[str, object]:
    return {name: getattr(segment, name) for name in Segment.__slots__}


def long_transcript(hours: float, *, has_words: bool) -> list[Segment]:
    """English at about 150 words a minute in segments of about 25 s, as a recording of hours gives them."""
    chance = random.Random(0)
    segments = []
    at = 0.0
    while at < hours * 3600:
        start, words = at, list[Word]()
        while at < start + 25:
            text = chance.choice(ENGLISH) + (
                "." if chance.random() < 0.08 else "," if chance.random() < 0.08 else ""
            )
            words.append(Word(text, at, at + 0.3, " " if words else ""))
            at += 0.3 + (0.7 if text[-1] == "." else 0.2 if text[-1] == "," else 0.05)
        given = tuple(words) if has_words else ()
        segments.append(
            Segment(len(segments), start, words[-1].end_seconds, words_text(words), "English", words=given)
        )
    return segments
