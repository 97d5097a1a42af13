"""A recording on its way through the engine: read ahead, cut into chunks, joined again."""
