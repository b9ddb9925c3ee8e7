"""The model test: runs in plain Python, random worlds, and the comparison with the contents of Redis."""
