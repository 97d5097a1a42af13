-- Whom to tell of a job's end, from the moment of that end: written with it, or not at all.
CREATE TABLE callbacks (
    seq INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    delivery_id TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'due' CHECK (status IN ('due', 'delivered', 'given_up')),
    attempts INTEGER NOT NULL DEFAULT 0,
    -- On the clock that ages are counted by.
    due_on_clock REAL NOT NULL,
    last_error TEXT,
    last_at REAL
);
CREATE INDEX callbacks_due ON callbacks (due_on_clock) WHERE status = 'due';
