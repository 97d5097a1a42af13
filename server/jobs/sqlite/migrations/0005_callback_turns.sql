-- Whose turn it is, and which receivers are busy, without a look at jobs. Rows from before count as one receiver.
ALTER TABLE callbacks ADD COLUMN for_owner TEXT NOT NULL DEFAULT '';
ALTER TABLE callbacks ADD COLUMN to_host TEXT NOT NULL DEFAULT '';
UPDATE callbacks SET for_owner = (SELECT owner FROM jobs WHERE jobs.seq = callbacks.seq);
DROP INDEX callbacks_due;
CREATE INDEX callbacks_due ON callbacks (for_owner, to_host, due_on_clock) WHERE status = 'due';
