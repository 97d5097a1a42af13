"""The texts, model outputs and prompts of the text parity tests, and how their reference results are recorded.

Qwen's vocabulary has 151,643 entries. Byte pairs are merged by rank, so a vocabulary that holds exactly the merges
which some texts go through splits those texts the same way; that much is stored, under the true ids. Needs `regex`,
`transformers` 4.57.6 and the vocabulary file of the package `dashscope`; only make_fixtures.py imports this module.
"""

from __future__ import annotations

import base64
import importlib.util
import itertools
import json
import tempfile
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEXTS = (
    "Mr. Quilter is the apostle of the middle classes, and we are glad to welcome his gospel.",
    "language English",
    "language Chinese",
    "system\n",
    "user\n",
    "assistant\n",
    "It's what they'll say: I'm sure we've DON'T and y'all'd; O'Brien'S",
    "O'Sullivan, O'Reilly, 'tis 'Mexico, O'Then, O'STOP, l'REST, rock'd'n'roll, D'MARCO's L'LAMA",
    "can’t — “quoted” … ‘single’",
    "In 2024, 12,345.67 € were 3½ times 1e10; call 0800-555-0199.",
    "OpenAI, McDonald, iPhone, YouTube, eBay and LaTeX",
    "HTTPServer parseJSON fooBar XMLHttpRequest",
    "Caf\u00e9 na\u00efve r\u00e9sum\u00e9",
    "Cafe\u0301 nai\u0308ve re\u0301sume\u0301",  # decomposed: equal to the line before after NFC
    "\u1100\u1161\u11a8 \ud55c\uad6d\uc5b4",  # Hangul jamo, composed by NFC
    "\u212b \u2126 \ufb01 \u00bd",  # singletons change under NFC, ligatures do not
    "D\u0323\u0307 \u1e0c\u0307",  # two marks in either order
    "今天天气很好，我们去公园吧。",
    "廣東話係一種語言",
    "これはテストです。カタカナとひらがな。",
    "한국어 문장을 인식합니다.",
    "สวัสดีครับ ภาษาไทยไม่มีช่องว่าง",
    "नमस्ते दुनिया, यह हिंदी है",
    "مرحبا بالعالم، كيف حالك؟",
    "سلام، حال شما چطور است؟",
    "Привет, мир! Ёлка и ещё.",
    "Γειά σου Κόσμε· τι κάνεις;",
    "Größe Straße ÄÖÜ äöü ẞ",
    "¿Dónde está el niño? ¡Aquí, mañana!",
    "L'été, c'est l'heure d'aujourd'hui.",
    "São Paulo não é Lisboa",
    "Tiếng Việt có dấu",
    "İstanbul'da ışık ŞĞÇ",
    "Łódź, żółw i źdźbło; příliš žluťoučký kůň",
    "Árvíztűrő tükörfúrógép; știință și țară",
    "Македонски јазик",
    "😀👍🏽👨‍👩‍👧 🇩🇪",
    "  two leading and two trailing  ",
    "a\n\nb\r\n  c\n   \n",
    "tab\tand\u00a0no-break\u3000wide",
    "",
    " ",
    "\n",
    "!!! ??? ...\n\n***",
    "x² + y³ = ①②③ ٣٤٥ Ⅷ",
    "<|im_end|> is plain text here, and so is <asr_text>",
)

PROMPTS: tuple[tuple[int, str | None, str | None], ...] = (
    (0, None, None),
    (4, None, None),
    (13, "Mr. Quilter, McDonald", None),
    (2, None, "English"),
    (3, "Café\n", "Chinese"),
)

TAG = "<asr_text>"
OUTPUTS: tuple[tuple[str, str | None], ...] = (
    (f"language English{TAG}Mr. Quilter is the apostle.", None),
    (f"  language English{TAG}  padded text \n", None),
    (f"language None{TAG}", None),
    (f"Language NONE{TAG}  ", None),
    (f"language None{TAG}still something", None),
    (f"language nonesuch{TAG}text", None),
    ("", None),
    ("   \n\t ", None),
    ("no tag at all", None),
    ("language English without a tag", None),
    (f"{TAG}only text", None),
    (f"{TAG}", None),
    (f"language{TAG}text", None),
    (f"language {TAG}text", None),
    (f"language  english{TAG}two spaces", None),
    (f"LANGUAGE CHINESE{TAG}今天", None),
    (f"language cHINESE\n{TAG}line", None),
    (f"noise\nlanguage French\n{TAG}bonjour", None),
    (f"language French\nlanguage German{TAG}first wins", None),
    (f"\n\n  language Spanish  \n\n{TAG}hola", None),
    (f"the language English{TAG}not at the start of a line", None),
    (f"language Old Church Slavonic{TAG}several words", None),
    (f"language Klingon{TAG}not in the list", None),
    (f"language English{TAG}one{TAG}two", None),
    (f"language English{TAG}a < b and <asr", None),
    (f"language English{TAG}" + "ha" * 19, None),
    (f"language English{TAG}" + "ha" * 20, None),
    (f"language English{TAG}" + "ha" * 45 + " end", None),
    (f"language English{TAG}" + "x" * 20, None),
    (f"language English{TAG}" + "x" * 21, None),
    (f"language English{TAG}start " + "z" * 500 + " end", None),
    (f"language English{TAG}" + "the same words. " * 30, None),
    (f"language English{TAG}" + "twenty-two characters " * 30, None),
    (f"language English{TAG}" + "ab" * 25 + "middle" + "cd" * 25 + "tail", None),
    (f"language Japanese{TAG}" + "はい、" * 40, None),
    (f"language English{TAG}" + "-" * 21 + "ab" * 20, None),
    (f"language English{TAG}" + "aab" * 20 + "aab" * 5 + "aa", None),
    ("y" * 60, None),
    ("plain words", "English"),
    ("  plain words \n", "English"),
    ("", "English"),
    ("   ", "German"),
    ("no" * 30, "English"),
    ("language is a virus", "English"),
    (f"language English{TAG}repeated head", "English"),
    (f"language German{TAG}another head", "English"),
    (f"language None{TAG}", "English"),
)


def record_outputs(parse: Callable[[str, str | None], tuple[str, str]], target: Path) -> None:
    """The official parser's result for each output; and our text where we differ knowingly.

    In forced mode the official parser returns its input, tag and all. Ours removes a head that the model repeated.
    """
    cases: list[dict[str, Any]] = []
    for raw, forced in OUTPUTS:
        language, text = parse(raw, forced)
        case: dict[str, Any] = {"raw": raw, "forced": forced, "language": language, "text": text}
        if forced and TAG in text:
            case["text_without_head"] = text.split(TAG, 1)[1].strip()
        cases.append(case)
    about = {"qwen-asr": version("qwen-asr")}
    target.write_text(json.dumps({"about": about, "cases": cases}, ensure_ascii=False, indent=1) + "\n")
    print(f"{target.name}: {len(cases)} outputs")


def added_tokens() -> dict[int, dict[str, Any]]:
    """The control tokens of the published tokenizer_config.json: id -> content and whether it is special."""
    names = {
        151643: "<|endoftext|>",
        151644: "<|im_start|>",
        151645: "<|im_end|>",
        151646: "<|object_ref_start|>",
        151647: "<|object_ref_end|>",
        151648: "<|box_start|>",
        151649: "<|box_end|>",
        151650: "<|quad_start|>",
        151651: "<|quad_end|>",
        151652: "<|vision_start|>",
        151653: "<|vision_end|>",
        151654: "<|vision_pad|>",
        151655: "<|image_pad|>",
        151656: "<|video_pad|>",
        151657: "<tool_call>",
        151658: "</tool_call>",
        151659: "<|fim_prefix|>",
        151660: "<|fim_middle|>",
        151661: "<|fim_suffix|>",
        151662: "<|fim_pad|>",
        151663: "<|repo_name|>",
        151664: "<|file_sep|>",
        151665: "<tool_response>",
        151666: "</tool_response>",
        151667: "<think>",
        151668: "</think>",
        151669: "<|audio_start|>",
        151670: "<|audio_end|>",
        151671: "<tts_pad>",
        151672: "<tts_text_bos>",
        151673: "<tts_text_eod>",
        151674: "<tts_text_bos_single>",
        151675: "<non_speech>",
        151676: "<|audio_pad|>",
        **{151676 + number: f"<blank{number}>" for number in range(1, 28)},
        151704: TAG,
        151705: "<timestamp>",
    }
    plain = {*range(151657, 151669), 151675, 151704, 151705}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {token: {"content": name, **flags, "special": token not in plain} for token, name in names.items()}


def _byte_letters() -> dict[int, str]:
    """The printable character that stands for each byte in GPT-2's vocabulary files."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(printable))
    return letters


class Vocabulary:
    """Byte pairs by rank: token bytes -> id, lower ids merged first."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self.ranks = ranks
        self._letters = _byte_letters()

    @classmethod
    def from_dashscope(cls) -> Vocabulary:
        """Read the ranks that the package dashscope ships, without importing it."""
        found = importlib.util.find_spec("dashscope")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("the vocabulary comes from the package dashscope, which is not installed")
        path = Path(found.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
        lines = (line.split() for line in path.read_bytes().splitlines() if line)
        return cls({base64.b64decode(token): int(rank) for token, rank in lines})

    def split(self, word: bytes, below: int | None = None) -> tuple[list[bytes], list[bytes]]:
        """Merge a word's bytes by rank: (final pieces, every token made on the way). `below` limits the ranks."""
        pieces = [word[index : index + 1] for index in range(len(word))]
        made: list[bytes] = []
        while len(pieces) > 1:
            pairs = [self.ranks.get(left + right) for left, right in itertools.pairwise(pieces)]
            known = [rank for rank in pairs if rank is not None and (below is None or rank < below)]
            if not known:
                break
            at = pairs.index(min(known))
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            made.append(pieces[at])
        return pieces, made

    def letters(self, token: bytes) -> str:
        """A token as vocab.json spells it."""
        return "".join(self._letters[byte] for byte in token)

    def write(self, folder: Path, kept: set[bytes]) -> None:
        """vocab.json, merges.txt and tokenizer_config.json with the single bytes and `kept`, under the true ids."""
        tokens = sorted(
            (token for token in self.ranks if len(token) == 1 or token in kept), key=self.ranks.__getitem__
        )
        merges = []
        for token in tokens:
            if len(token) > 1:
                left, right = self.split(token, below=self.ranks[token])[0]
                merges.append(f"{self.letters(left)} {self.letters(right)}")
        vocabulary = {self.letters(token): self.ranks[token] for token in tokens}
        settings = {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": added_tokens(),
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _prompt_text(audio_tokens: int, context: str | None, language: str | None) -> str:
    forced = f"language {language}{TAG}" if language else ""
    return (
        f"<|im_start|>system\n{context or ''}<|im_end|>\n<|im_start|>user\n<|audio_start|>"
        f"{'<|audio_pad|>' * audio_tokens}<|audio_end|><|im_end|>\n<|im_start|>assistant\n{forced}"
    )


# Splitting by mistake must meet the merges that Qwen's whole vocabulary has for it, or the mistake would not show.
_MISTAKEN_PATTERNS = (
    SPLIT_PATTERN.removeprefix("(?i:'s|'t|'re|'ve|'m|'ll|'d)|"),
    SPLIT_PATTERN.replace("(?i:", "(?:"),
    SPLIT_PATTERN.replace(r"|\p{N}|", r"|\p{N}+|"),
    SPLIT_PATTERN.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?\p{L}+"),
    r"\s*\S+",
    r"(?s).+",
)


def _merges_needed(vocabulary: Vocabulary, texts: list[str]) -> set[bytes]:
    """Every token that is made while splitting these texts rightly or by one of the usual mistakes."""
    import regex

    needed: set[bytes] = set()
    for pattern in (SPLIT_PATTERN, *_MISTAKEN_PATTERNS):
        for text in texts:
            for form in ("NFC", "NFD", "NFKC"):
                for word in regex.findall(pattern, unicodedata.normalize(form, text)):
                    needed.update(vocabulary.split(word.encode())[1])
    return needed


def record_tokens(folder: Path, target: Path) -> None:
    """Write the reduced vocabulary, and ids of texts and prompts as the reference tokenizer gives them."""
    import tokenizers
    from transformers import Qwen2Tokenizer, Qwen2TokenizerFast

    vocabulary = Vocabulary.from_dashscope()
    with tempfile.TemporaryDirectory() as whole:
        vocabulary.write(Path(whole), set(vocabulary.ranks))
        fast, slow = Qwen2TokenizerFast.from_pretrained(whole), Qwen2Tokenizer.from_pretrained(whole)
    without_added = json.loads(fast.backend_tokenizer.to_str()) | {"added_tokens": []}
    plain = tokenizers.Tokenizer.from_str(json.dumps(without_added))

    texts = []
    for text in TEXTS:
        ids = plain.encode(text, add_special_tokens=False).ids
        if "<" not in text and not ids == fast.encode(text) == slow.encode(text):
            raise SystemExit(f"the fast and the slow reference tokenizer differ on {text!r}")
        texts.append({"text": text, "ids": ids, "decoded": fast.decode(ids)})
    prompts = [
        {
            "audio_tokens": audio_tokens,
            "context": context,
            "language": language,
            "ids": fast.encode(_prompt_text(audio_tokens, context, language)),
        }
        for audio_tokens, context, language in PROMPTS
    ]
    answers = []
    for answer in (
        f"language English{TAG}Mr. Quilter is the apostle of the middle classes<|im_end|>",
        f"language None{TAG}<|im_end|>",
        f"language Chinese{TAG}今天天气很好<non_speech><blank3><|endoftext|>",
    ):
        ids = fast.encode(answer)
        answers.append({"ids": ids, "text": fast.decode(ids, skip_special_tokens=True)})

    words = [*TEXTS, *(_prompt_text(0, context, language) for _, context, language in PROMPTS)]
    words += [part["text"].replace(TAG, "\n") for part in answers]
    # What stands between two control tokens is split on its own.
    words += [
        "language English",
        "language None",
        "Mr. Quilter is the apostle of the middle classes",
        "今天天气很好",
    ]
    words += [f"{context}" for _, context, _ in PROMPTS if context]
    vocabulary.write(folder, _merges_needed(vocabulary, words))
    about = {"transformers": version("transformers"), "vocabulary": f"dashscope {version('dashscope')}"}
    content = {"about": about, "texts": texts, "prompts": prompts, "answers": answers}
    target.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{target.name}: {len(texts)} texts; {(folder / 'vocab.json').stat().st_size} bytes of vocabulary")
