"""The examples: their location, and what their tests need in addition."""
