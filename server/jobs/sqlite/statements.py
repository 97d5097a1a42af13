"""The longer statements that change jobs, their texts and their events; and the conditions that reading them shares."""

from __future__ import annotations

from scribewire.server.jobs.sqlite.columns import JOB_COLUMNS

INSERT = (
    "INSERT INTO jobs (job_id, owner, options, result_format, callback_url, idempotency_key, fingerprint, created_at, "
    f"audio_id, audio_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {JOB_COLUMNS}"
)
CLAIM = (
    "UPDATE jobs SET status = 'processing', worker = :worker, boot = :boot, lease_until = :lease_until, "
    "attempts = attempts + 1, claim_number = claim_number + 1 WHERE seq = :seq "
    f"RETURNING {JOB_COLUMNS}"
)
REQUEUE = (
    "UPDATE jobs SET status = 'queued', worker = NULL, boot = NULL, lease_until = NULL, started_at = NULL, "
    "audio_seconds_done = 0, attempts = attempts - ?, deaths = ? WHERE seq = ?"
)
WAITS_CLAIMED = "status = 'processing' AND started_at IS NULL"
"""True of a job whose worker has not begun to decode it: everywhere but in this table it is `queued`."""
NOT_LONG = "(audio_seconds_total IS NULL OR audio_seconds_total <= 60.0)"
"""Not found to be longer than LONG_SECONDS; the same text as in the migration, whose index SQLite finds by it."""
HELD = (
    "status = 'processing' AND job_id = :job_id AND boot = :boot AND worker = :worker "
    "AND claim_number = :claim_number"
)
RENEW = (
    "UPDATE jobs SET lease_until = :lease_until, started_at = coalesce(started_at, :begun_at), "
    "audio_seconds_done = coalesce(:done, audio_seconds_done), "
    f"audio_seconds_total = coalesce(:total, audio_seconds_total) WHERE {HELD} RETURNING seq, started_at"
)
LOG = (
    "INSERT INTO events (seq, event_id, kind, at, attempt, audio_seconds_done, audio_seconds_total, text, failure) "
    # Texts are larger than any number, for SQLite: a damaged id counts nothing.
    "SELECT seq, coalesce((SELECT max(event_id) FROM events WHERE events.seq = jobs.seq AND event_id < 1e15), 0) + 1, "
    "?, ?, attempts, audio_seconds_done, audio_seconds_total, ?, ? FROM jobs WHERE seq = ?"
)
ADD_TEXT = (
    "INSERT INTO texts (seq, partial_text) VALUES (?, ?) "
    "ON CONFLICT (seq) DO UPDATE SET partial_text = partial_text || excluded.partial_text"
)
SET_RESULT = (
    "INSERT INTO texts (seq, transcript) VALUES (?, ?) "
    "ON CONFLICT (seq) DO UPDATE SET transcript = excluded.transcript, partial_text = ''"
)
COUNT_ANEW = (
    "UPDATE counts SET jobs = (SELECT count(*) FROM jobs WHERE jobs.status = counts.status)",
    "DELETE FROM queues",
    "INSERT OR IGNORE INTO queues SELECT owner, count(*) FROM jobs WHERE status = 'queued' GROUP BY owner",
)
"""What follows from the rows of jobs, made anew at every start, because triggers do not see damage."""
