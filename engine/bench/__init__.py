"""What `scribewire bench` does: random models, measuring, peers side by side, and the report.

Nothing here is used by the server or by a transcription. The command's own process loads no MLX: whatever computes
runs in child processes, one for each thing measured, so that peaks, crashes and peers stay apart.
"""
