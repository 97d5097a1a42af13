"""Word times by a forced aligner."""
