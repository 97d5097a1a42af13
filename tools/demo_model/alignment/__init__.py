"""The bundled demo aligner's recipe: word times straight from the synthesizers, training, export.

It goes on where the recipe of the demo model ends: same network, same tokenizer, its weights to start from. Training
only; never imported by the engine.
"""
