"""Scripts that run other programs under those programs' own Python, measured as ours is and given the same counts.

They are started by path, never imported, and import nothing of this project. What they change about a peer is in
each script's head: it is a rig to make both sides do the same work, and nothing is changed besides.
"""
