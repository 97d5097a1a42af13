-- Recordings of unknown jobs, and since when they are set aside, on the clock that ages are counted by.
CREATE TABLE orphans (audio_id TEXT PRIMARY KEY, since_on_clock REAL NOT NULL) WITHOUT ROWID;
-- Running time since a leap of the wall clock that is not believed yet; NULL while there is none.
ALTER TABLE clock ADD COLUMN doubted_for REAL;
