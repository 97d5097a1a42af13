"""The one request: what a form and a JSON body become, validated.

A field of the model is all that a new parameter needs: its bounds, its refusals, its place in the description of the
API and, where TranscribeOptions has a field of the same name, its way to the engine follow from it. Unknown fields are
ignored, as in OpenAI's API; known fields that ask for something unsupported are refused, because an answer without it
would be wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import model_validator as model_check
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from scribewire.engine.protocol.config import (
    MAX_TEMPERATURE,
    MAX_VOICE_MILLISECONDS,
    Chunking,
    TranscribeOptions,
)
from scribewire.engine.protocol.speakers import SpeakerOptions
from scribewire.server.http.errors import ApiError, bad_request
from scribewire.server.intake.form import MAX_FIELD_BYTES, FormFields, is_unset, one_value
from scribewire.server.intake.formats import DEFAULT_FORMAT, FORMATS, ResponseFormat, names_of_formats
from scribewire.server.speakers.diarization import MAX_REFERENCE_SECONDS

_Model = TypeVar("_Model", bound=BaseModel)

MAX_SPEAKERS = 16
AUDIO_DATA_URL = r"^(?i:data:(?:audio|video|application)/[^,]{1,200};base64,)[A-Za-z0-9+/_=-]+$"

_VALUE_ERRORS = (
    "float_type", "float_parsing", "finite_number", "int_type", "int_parsing", "int_parsing_size", "int_from_float",
    "greater_than_equal", "less_than_equal", "bool_parsing", "string_type",
)  # fmt: skip
REFUSALS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(_VALUE_ERRORS, ("invalid_parameter", "{name} must be {kind}, not {shown}.")),
    "literal_error": ("invalid_parameter", "{name} {shown} is unknown; use {choices}."),
    "too_long": ("invalid_parameter", "{name} has more than {max_length} entries: {actual_length}."),
    "string_too_long": (
        "invalid_parameter",
        "{name} holds a text of more than {max_length} characters: {shown}.",
    ),
    "string_pattern_mismatch": (
        "invalid_parameter",
        "{name} must be data URLs of recordings (data:audio/wav;base64,...).",
    ),
    "language_too_long": ("language_unknown", "{name} {shown} is too long to be one."),
    "missing": ("invalid_parameter", "chunking_strategy has details that need {name}=server_vad."),
    "model_type": (
        "invalid_parameter",
        "{name} must be auto, or an object sent as {name}[type]=server_vad and so on, not {shown}.",
    ),
    "combination": ("invalid_parameter", "{message}"),
}
"""Code and message of a refused request by pydantic's type of error."""


# ---- types of fields ---------------------------------------------------------------------------------------------


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "a boolean is no number")
    return value


def _true_or_false(value: object) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).strip().lower()
    if text not in known:
        raise PydanticCustomError("bool_parsing", "neither true nor false")
    return known[text]


def _no_longer_than_a_language(value: str) -> str:
    if len(value) > 64:
        raise PydanticCustomError("language_too_long", "too long")
    return value


def _once_each(items: object) -> object:
    """A list of names without repetitions, and without what clients send for none."""
    if not isinstance(items, list) or not all(isinstance(one, str) for one in items):
        return items
    return list(dict.fromkeys(one.strip() for one in items if not is_unset(one)))


def _different(items: object) -> object:
    is_plain = isinstance(items, list) and all(isinstance(one, str) for one in items)
    return list(dict.fromkeys(items)) if is_plain else items  # type: ignore[call-overload]  # a list of texts


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("literal_error", "unknown", {"expected": names_of_formats()})
    return name


FormatName = Annotated[str, Field(json_schema_extra={"enum": [*FORMATS]}), AfterValidator(_known_format)]
Number = BeforeValidator(_no_boolean)
Share = Annotated[float, Field(ge=0, le=1), Number]
Milliseconds = Annotated[int, Field(ge=0, le=MAX_VOICE_MILLISECONDS), Number]
Boolean = Annotated[bool, BeforeValidator(_true_or_false)]
Language = Annotated[
    str,
    Field(json_schema_extra={"maxLength": 64}),
    AfterValidator(_no_longer_than_a_language),
]


class ChunkingStrategy(BaseModel):
    """Voice detection in the words of OpenAI's API; details that are left out have Chunking's defaults."""

    type: Literal["auto", "server_vad"]
    threshold: Share | None = None
    prefix_padding_ms: Milliseconds | None = None
    silence_duration_ms: Milliseconds | None = None

    @model_check(mode="after")
    def _details_need_their_type(self) -> Self:
        if self.type == "auto" and len(self.model_dump(exclude_none=True)) > 1:
            name = "chunking_strategy[type]"
            raise combination(name, f"chunking_strategy has details that need {name}=server_vad.")
        return self

    @classmethod
    def sent(cls, fields: FormFields, name: str) -> object:
        """Its values, as an object, as bracketed fields, or as one JSON text, which the Vercel AI SDK sends.

        None when left out; the text itself when it is none of these.
        """
        value = fields.value(name)
        if isinstance(value, str) and value.strip().startswith("{"):
            value = _plain_object(value)
        parts = fields.parts(name)
        for key, part in value.items() if isinstance(value, dict) else ():
            if key in parts:
                one_value(f"{name}[{key}]", (str(parts[key]), str(part)))
            parts[key] = part
        known = {key: parts[key] for key in cls.model_fields if not is_unset(parts.get(key))}
        if known and (isinstance(value, dict) or value in (None, "auto")):
            return known
        return {"type": "auto"} if value == "auto" else None if isinstance(value, dict) else value


# ---- the models --------------------------------------------------------------------------------------------------


class TranscriptionRequest(BaseModel):
    """The parameters of one transcription, without its recording."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str | None = Field(
        None,
        description="The resident model by its id or one of its aliases; 404 for any other, unless the operator took "
        "every name (--any-model). May be left out.",
    )
    language: Language | None = Field(
        None,
        description="The language spoken, by English name or ISO 639-1 code, with or without a region; native names "
        "and ISO 639-2 and -3 codes are understood too. Detected when left out.",
    )
    prompt: str | None = Field(
        None,
        json_schema_extra={"maxLength": MAX_FIELD_BYTES},
        description="Context for the model: names, spellings, the subject. Plain text, never control tokens. Refused "
        "when it leaves no room for the recording in the model's context.",
    )
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE), Number] = Field(
        0.0, description="0 takes the likeliest token; above 0 tokens are sampled."
    )
    languages: Annotated[tuple[Language, ...], BeforeValidator(_once_each)] = Field(
        (), max_length=64, description="Detection chooses among these only."
    )
    keywords: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], BeforeValidator(_different)] = (
        Field(
            (),
            max_length=500,
            description="Names and terms that the recording may contain. A comma separates two of them in a form.",
        )
    )
    repetition_penalty: Annotated[float, Field(ge=1, le=2), Number] = Field(
        1.0, description="Above 1, tokens that the text holds already become less likely."
    )
    min_p: Share = Field(
        0.0,
        description="Above temperature 0, tokens less likely than this share of the likeliest one's probability are "
        "never sampled; 0 leaves all of them.",
    )
    max_tokens: Annotated[int, Field(ge=1, le=65_536), Number] | None = Field(
        None, description="Most tokens of one chunk of the recording (chunks are at most 30 s long)."
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1), Number] | None = Field(
        None, description="Makes the same request sample the same tokens."
    )
    response_format: FormatName = Field(
        DEFAULT_FORMAT, description=f"The form of the answer: {names_of_formats()}."
    )
    timestamp_granularities: Annotated[
        tuple[Literal["segment", "word"], ...], BeforeValidator(_once_each)
    ] = Field(
        (),
        description="word adds `words` to verbose_json and to a job's result: the times of each word, for the "
        "languages of the aligner; `warnings` say where words have no times. word alone leaves out verbose_json's "
        "segments, which always have times.",
    )
    include: Annotated[tuple[Literal["logprobs"], ...], BeforeValidator(_once_each)] = Field(
        (), description="logprobs adds each token's log-probability to json and to the events."
    )
    stream: Boolean = Field(
        default=False,
        description=f"Answer with server-sent events, with {names_of_formats('stream')}.",
    )
    chunking_strategy: ChunkingStrategy | None = Field(
        None,
        description="How the recording is cut into chunks. Left out: at pauses that are found by loudness; silence of "
        "two seconds and more, and steady noise without a voice, is left out. auto: the same with voice detection. "
        "server_vad: with its threshold (0.5), its padding before speech (300 ms) and the silence that ends speech (200"
        " ms). An explicit null: at the quietest points, nothing left out. Times always refer to the whole recording.",
    )
    known_speaker_names: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        (),
        max_length=MAX_SPEAKERS,
        description="diarized_json: names for the voices of known_speaker_references, in the same order. Other voices "
        "are named A, B, C.",
    )
    known_speaker_references: tuple[Annotated[str, Field(pattern=AUDIO_DATA_URL)], ...] = Field(
        (),
        max_length=MAX_SPEAKERS,
        description="diarized_json: recordings of one voice each as data URLs, as many as there are "
        f"known_speaker_names, of {MAX_REFERENCE_SECONDS:g} s and 1 MiB at most. Used where the pipeline gives "
        "embeddings of voices.",
    )

    @classmethod
    def of(cls, fields: FormFields) -> Self:
        """The request of the fields sent; raises ApiError 400."""
        sent: dict[str, object] = {}
        for name, field in cls.model_fields.items():
            value = _sent(fields, name, field)
            if value is not None or (name == "chunking_strategy" and fields.is_null(name)):
                sent[name] = value
        return validated(cls, sent)

    @property
    def format(self) -> ResponseFormat:
        """The format of the answer."""
        return FORMATS[self.response_format]

    @property
    def wants_logprobs(self) -> bool:
        """True when each token's log-probability belongs into the answer."""
        return "logprobs" in self.include

    def options(self, model: str | None = None) -> TranscribeOptions:
        """The engine's options: those of the same name, and those that follow from others. model: as resolved."""
        wants = self.format.wants
        words = self._asks_for_words()
        follow = {
            "model": model,
            "logprobs": "logprobs" in wants or self.wants_logprobs,
            "token_logprobs": self.wants_logprobs,
            "words": words or "words" in wants,
            "words_optional": "words" in wants and not words,
            "speakers": self._speakers() if "speakers" in wants else None,
            "chunking": self._chunking(),
        }
        return TranscribeOptions(**self.shared_with(TranscribeOptions) | follow)

    def shared_with(self, kind: type[Any]) -> dict[str, Any]:
        """The values of the fields that a dataclass has too."""
        names = [one.name for one in dataclasses.fields(kind) if one.name in type(self).model_fields]
        return {name: getattr(self, name) for name in names}

    def _speakers(self) -> SpeakerOptions:
        return SpeakerOptions(known_names=self.known_speaker_names, references=self.known_speaker_references)

    def _chunking(self) -> Chunking:
        if "chunking_strategy" not in self.model_fields_set:
            return Chunking()
        if self.chunking_strategy is None:
            return Chunking("quietest")
        return Chunking("voice", **self.chunking_strategy.model_dump(exclude={"type"}, exclude_none=True))

    def _asks_for_words(self) -> bool:
        return "word" in self.timestamp_granularities

    def _may_have_words(self) -> bool:
        return "words" in self.format.takes

    @model_check(mode="after")
    def _goes_together(self) -> Self:
        # Some SDKs send `segment` with every format, where it changes nothing; `word` is always intended.
        if "word" in self.timestamp_granularities and not self._may_have_words():
            name = "timestamp_granularities"
            usable = names_of_formats("words")
            raise combination(name, f"{name} word needs response_format={usable}.")
        if len(self.known_speaker_references) > len(self.known_speaker_names):
            name = "known_speaker_references"
            count = len(self.known_speaker_references)
            raise combination(
                name, f"{name} has {count} entries for {len(self.known_speaker_names)} known_speaker_names."
            )
        if self.include and "logprobs" not in self.format.takes:
            usable = names_of_formats("logprobs")
            raise combination("include", f"include=logprobs needs response_format={usable}.")
        if self.stream and "stream" not in self.format.takes:
            raise combination(
                "stream",
                f"stream=true sends events in place of a {self.response_format} body; "
                f"use response_format={DEFAULT_FORMAT}, or leave stream out.",
            )
        return self


def validated(model: type[_Model], values: Mapping[str, object]) -> _Model:
    """Values as a model; raises ApiError 400 in today's words for the first that does not fit."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], model) from None


def shown(value: object) -> str:
    """What the client sent, on one line, shortened."""
    return repr(value[:40]) if isinstance(value, str) else json.dumps(value)[:40]


# ---- from fields to values, from pydantic's errors to refusals -----------------------------------------------------


def is_list(field: FieldInfo) -> bool:
    """True for a field that may be sent as several."""
    return get_origin(field.annotation) is tuple


def _sent(fields: FormFields, name: str, field: FieldInfo) -> object:
    if is_list(field):
        return fields.items(name) or None
    if name == "chunking_strategy":
        return ChunkingStrategy.sent(fields, name)
    value = fields.value(name)
    return value.strip() if isinstance(value, str) and name not in ("prompt", "context") else value


def _plain_object(text: str) -> object:
    """The object of a JSON text, without objects and lists inside; the text itself when it is something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_plain = isinstance(content, dict) and not any(isinstance(one, dict | list) for one in content.values())
    return content if is_plain else text


def combination(param: str, message: str) -> PydanticCustomError:
    """The refusal of values that do not go together, which names one field."""
    return PydanticCustomError("combination", "{message}", {"param": param, "message": message})


def _refusal(error: ErrorDetails, model: type[BaseModel]) -> ApiError:
    """A pydantic error in today's words."""
    code, message = REFUSALS.get(error["type"], ("invalid_parameter", "{name} is invalid."))
    values = error.get("ctx", {})
    first, *inner = [str(part) for part in error["loc"] if not isinstance(part, int)] or [values["param"]]
    name = "".join([first, *(f"[{part}]" for part in inner)])
    values = {
        "name": name,
        "shown": shown(error["input"]),
        "kind": _kind(error["loc"], model),
        "choices": str(values.get("expected", "")).replace("'", ""),
        **values,
    }
    return bad_request(code, message.format_map(values), name)


@functools.cache
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _kind(place: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What a field may hold, in words, by its schema."""
    schema = _schema_of(model)
    found = schema
    for part in place:
        found = found.get("items", {}) if isinstance(part, int) else found["properties"][part]
        found = next((one for one in found.get("anyOf", ()) if one.get("type") != "null"), found)
        found = schema["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found
    if found.get("type") in ("integer", "number"):
        whole = "whole " if found["type"] == "integer" else ""
        return f"a {whole}number from {found['minimum']} to {found['maximum']}"
    if place and isinstance(place[-1], int):
        return "a list of texts"
    return "true or false" if found.get("type") == "boolean" else "a text"
