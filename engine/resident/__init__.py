"""The model that stays in memory between recordings: its device, its limits, its warm-up."""
