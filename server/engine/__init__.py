"""The engine's worker from the front's side: started, watched, restarted, and sent requests."""
