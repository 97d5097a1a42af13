"""The description that `GET /openapi.json` answers with: written by hand, bounds taken from where they are checked."""
