"""Who may ask, and for how much: the gate, keys, limits of a key."""
