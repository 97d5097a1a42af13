"""HTTP, keys, jobs and supervision of the engine's process; it imports only `scribewire.engine.protocol` of it."""
