"""Settings: their fields, the types of their values, and the config file."""
