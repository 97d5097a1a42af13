"""Starting processes, and a process's knowledge of its memory; standard library only."""
