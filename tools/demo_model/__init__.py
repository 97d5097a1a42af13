"""The demo model's recipe: text, speech, training, export. Never imported by the engine or the server."""
