"""Errors of a job store as HTTP answers: one status for each code."""

from __future__ import annotations

from scribewire.server.http.errors import ApiError
from scribewire.server.jobs.store import JobStoreError

_STATUS = {
    "too_many_jobs": 429,
    "disk_full": 507,
    "job_store_unavailable": 503,
    "data_folder_gone": 503,
    "idempotency_conflict": 409,
    "cursor_invalid": 400,
    "job_not_retryable": 409,
}
_RETRY_AFTER_SECONDS = {"too_many_jobs": 10, "job_store_unavailable": 5, "data_folder_gone": 5}
_PARAM = {"cursor_invalid": "cursor", "job_not_retryable": "job_id"}
# SDKs retry 409 and 507 automatically, each time with the whole recording, and would be refused again.
_NOT_TO_BE_RETRIED = {"disk_full", "idempotency_conflict", "job_not_retryable"}


def as_refusal(error: JobStoreError) -> ApiError:
    """The answer for an error of a store."""
    return ApiError(
        _STATUS.get(error.code, 500),
        error.code,
        str(error),
        param=_PARAM.get(error.code),
        retry_after_seconds=_RETRY_AFTER_SECONDS.get(error.code),
        should_retry=False if error.code in _NOT_TO_BE_RETRIED else None,
    )
