"""Text in and out of the model: the language table, the prompt, its parser, and the joining of chunks."""
