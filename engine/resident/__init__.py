"""What stays in memory between recordings: the model, its device, its limits, its warm-up."""
