"""HTTP, keys, jobs and supervision of the engine's process; of the engine it knows `scribewire.engine.protocol`
only.
"""
