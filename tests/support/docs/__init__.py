"""The documentation pages as data, and the processes that the pages tell readers to start."""
