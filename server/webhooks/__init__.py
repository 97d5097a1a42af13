"""Telling whoever asked for it that a job is over: allowed targets only, signed, tried again for hours, never lost."""
