"""HTTP, keys, jobs and supervision of the engine's process, of which it imports protocol, processes and subtitles."""
