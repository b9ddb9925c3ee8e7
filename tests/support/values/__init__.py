"""Values of every kind of field that pydantic has, for tests that send them."""
