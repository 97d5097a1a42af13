"""The commands that talk to a running server over HTTP: `scribewire submit` and `scribewire jobs`."""
