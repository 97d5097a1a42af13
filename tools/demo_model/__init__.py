"""How the demo model is made: text, speech, training, export. Never imported by the engine or the server."""
