"""The numpy forms of the CPU; only the device profile asks for them."""
