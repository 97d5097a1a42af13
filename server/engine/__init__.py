"""The engine worker as the front sees it: started, watched, restarted, and asked."""
