"""The examples: where they are, and what their tests need beside them."""
