-- Queued jobs of each owner that were not found to be long: the only ones taken while long ones hold their places.
CREATE INDEX jobs_queued_not_long ON jobs (owner, seq)
    WHERE status = 'queued' AND (audio_seconds_total IS NULL OR audio_seconds_total <= 60.0);
