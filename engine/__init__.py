"""The engine: audio in, transcript out. The package's public names are those of `scribewire` itself."""
