"""How processes are started, and what a process knows of its memory; standard library only."""
