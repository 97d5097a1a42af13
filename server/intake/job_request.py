"""A job's request: the one request, and what a job has besides.

A field of JobParameters with the same name is stored with the job. The direct peer's two names, `timestamps` and
`context`, are further names of fields that exist.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic import model_validator as model_check

from scribewire.engine.protocol.config import ModelInfo, TranscribeOptions
from scribewire.engine.protocol.languages import LANGUAGES, spoken_language
from scribewire.server.http.errors import bad_request
from scribewire.server.intake.form import MAX_FIELD_BYTES
from scribewire.server.intake.request import Boolean, TranscriptionRequest, combination
from scribewire.server.jobs.job import JobParameters, base_name
from scribewire.server.webhooks.targets import MAX_URL_CHARACTERS, AllowedTargets, TargetNotAllowed


def _yes_as_true(value: object) -> object:
    words = {"yes": "true", "no": "false"}
    return words.get(value.lower(), value) if isinstance(value, str) else value


class JobRequest(TranscriptionRequest):
    """The parameters of a job, whose result can be fetched in every format later, with words if they were asked for."""

    filename: Annotated[str, AfterValidator(base_name)] | None = Field(
        None,
        description="Name of the recording's file, for lists; folders in it are left out. By default, in a form, the "
        "one of the file's part.",
    )
    timestamps: Annotated[Boolean, BeforeValidator(_yes_as_true)] = Field(
        default=False, description="mlx-qwen3-asr's name for timestamp_granularities[]=word."
    )
    context: str | None = Field(
        None,
        json_schema_extra={"maxLength": MAX_FIELD_BYTES},
        description="mlx-qwen3-asr's name for `prompt`, which goes before it.",
    )
    callback_url: str | None = Field(
        None,
        json_schema_extra={"format": "uri", "maxLength": MAX_URL_CHARACTERS},
        description="Receives a signed POST when the job has ended (docs/webhooks.md). Only targets that the operator "
        "allowed are accepted (--allow-callback)",
    )

    def options(self, model: str | None = None) -> TranscribeOptions:
        """See TranscriptionRequest.options; log-probabilities and words are for results in other formats."""
        words_optional = not self._asks_for_words()
        prompt = self.context if self.prompt is None else self.prompt
        wanted = super().options(model)
        return dataclasses.replace(
            wanted, prompt=prompt, logprobs=True, words=True, words_optional=words_optional
        )

    def check_languages(self, info: ModelInfo | None) -> None:
        """Refuse what would fail the job later; info: the resident model, None before its first load.

        raises: LanguageUnknown, LanguageUnsupported
        """
        spoken = tuple(one.name for one in LANGUAGES) if info is None else info.languages
        spoken_language(self.language or "", spoken)
        for one in self.languages:
            spoken_language(one, spoken, parameter="languages")

    def parameters(self, model: str | None, targets: AllowedTargets) -> JobParameters:
        """What the job is stored with; raises ApiError 400 for a receiver that may not be called."""
        if self.callback_url is not None:
            _check_callback(self.callback_url, targets)
        shared = self.shared_with(JobParameters)
        return JobParameters(**shared, options=self.options(model), result_format=self.response_format)

    def _asks_for_words(self) -> bool:
        return self.timestamps or super()._asks_for_words()

    def _may_have_words(self) -> bool:
        return True

    @model_check(mode="after")
    def _is_not_streamed(self) -> Self:
        if self.stream:
            raise combination(
                "stream",
                "A job cannot be streamed into its answer; follow it at /jobs/JOB_ID/events, and leave stream out.",
            )
        return self


def _check_callback(url: str, targets: AllowedTargets) -> None:
    name = "callback_url"
    try:
        targets.target(url)
    except ValueError as error:
        raise bad_request("callback_invalid", f"{name} {error}.", name) from None
    except TargetNotAllowed:
        raise bad_request(
            "callback_not_allowed",
            f"{name} is not among the targets that this server may call; its operator allows one with "
            "`--allow-callback HOST` or `--allow-callback https://HOST/PATH/`.",
            name,
        ) from None
