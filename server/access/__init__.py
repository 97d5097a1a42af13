"""Access to the server: the gate, keys, limits of a key."""
