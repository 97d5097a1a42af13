-- Jobs, their texts and their logs. The order in which jobs were submitted is seq; it is never used twice.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'processing', 'completed', 'failed', 'cancelled')),
    options TEXT NOT NULL,
    result_format TEXT NOT NULL,
    callback_url TEXT,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    -- NULL when the recording is gone.
    audio_id TEXT,
    audio_bytes INTEGER NOT NULL,
    audio_seconds_done REAL NOT NULL DEFAULT 0,
    audio_seconds_total REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths TEXT NOT NULL DEFAULT '[]',
    -- Who holds the claim: a worker, of one start of the server, until a time of that start's monotonic clock.
    worker TEXT,
    boot TEXT,
    lease_until REAL,
    claim_number INTEGER NOT NULL DEFAULT 0,
    is_demo INTEGER NOT NULL DEFAULT 0,
    failure TEXT,
    -- When it ended, on the clock that ages are counted by.
    ended_on_clock REAL
);
CREATE INDEX jobs_of_owner ON jobs (owner, seq);
CREATE INDEX jobs_of_owner_by_status ON jobs (owner, status, seq);
CREATE INDEX jobs_queued ON jobs (seq) WHERE status = 'queued';
CREATE INDEX jobs_processing ON jobs (lease_until) WHERE status = 'processing';
CREATE INDEX jobs_ended ON jobs (ended_on_clock) WHERE ended_on_clock IS NOT NULL;
CREATE INDEX jobs_with_audio ON jobs (audio_id, audio_bytes) WHERE audio_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_by_idempotency_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Apart from jobs, because lists and queues never look at them.
CREATE TABLE texts (
    seq INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    partial_text TEXT NOT NULL DEFAULT '',
    transcript TEXT
);

CREATE TABLE events (
    seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
    event_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    attempt INTEGER NOT NULL,
    audio_seconds_done REAL NOT NULL,
    audio_seconds_total REAL,
    text TEXT NOT NULL DEFAULT '',
    failure TEXT,
    PRIMARY KEY (seq, event_id)
) WITHOUT ROWID;

-- Counted as they change, so that a bound on the queue costs nothing to check.
CREATE TABLE counts (status TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counts VALUES ('queued', 0), ('processing', 0), ('completed', 0), ('failed', 0), ('cancelled', 0);
CREATE TRIGGER count_new AFTER INSERT ON jobs BEGIN
    UPDATE counts SET jobs = jobs + 1 WHERE status = new.status;
END;
CREATE TRIGGER count_changed AFTER UPDATE OF status ON jobs WHEN old.status <> new.status BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE status = old.status;
    UPDATE counts SET jobs = jobs + 1 WHERE status = new.status;
END;
CREATE TRIGGER count_removed AFTER DELETE ON jobs BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE status = old.status;
END;

-- The clock that ages are counted by, and what the wall clock said then.
CREATE TABLE clock (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), seconds REAL NOT NULL, wall REAL NOT NULL);
