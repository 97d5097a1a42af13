"""Checkpoints: finding and fetching a model's folder, knowing every published layout, loading it strictly.

Safetensors only; no pickle is ever opened, nor fetched.
"""
