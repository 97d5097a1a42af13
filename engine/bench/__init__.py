"""The work of `scribewire bench`: measure one model on this machine, part by part, and report.

Nothing here is used by the server or by a transcription. The command's own process loads no MLX: all computing
runs in child processes, one for each part, so that peaks and crashes stay apart.
"""
