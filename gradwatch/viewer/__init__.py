"""The page: a run in the browser, from one self-contained file. No torch, and no server."""
