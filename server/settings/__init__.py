"""Settings: what they are, what values they take, and the config file."""
