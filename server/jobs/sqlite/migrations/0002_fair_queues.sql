-- How many jobs of each owner are queued, so that owners can take turns; no row where there are none.
CREATE TABLE queues (owner TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO queues SELECT owner, count(*) FROM jobs WHERE status = 'queued' GROUP BY owner;
CREATE INDEX jobs_queued_of_owner ON jobs (owner, seq) WHERE status = 'queued';
CREATE TRIGGER queue_new AFTER INSERT ON jobs WHEN new.status = 'queued' BEGIN
    INSERT INTO queues VALUES (new.owner, 1) ON CONFLICT (owner) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER queue_joined AFTER UPDATE OF status ON jobs
    WHEN new.status = 'queued' AND old.status <> 'queued' BEGIN
    INSERT INTO queues VALUES (new.owner, 1) ON CONFLICT (owner) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER queue_left AFTER UPDATE OF status ON jobs WHEN old.status = 'queued' AND new.status <> 'queued' BEGIN
    UPDATE queues SET jobs = jobs - 1 WHERE owner = old.owner;
    DELETE FROM queues WHERE owner = old.owner AND jobs <= 0;
END;
CREATE TRIGGER queue_removed AFTER DELETE ON jobs WHEN old.status = 'queued' BEGIN
    UPDATE queues SET jobs = jobs - 1 WHERE owner = old.owner;
    DELETE FROM queues WHERE owner = old.owner AND jobs <= 0;
END;
DROP INDEX jobs_queued;
