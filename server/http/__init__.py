"""LlamaIndex's server protocol: routes, parsing, streams, access control, OpenAPI.

The page's own routes are in `console`.
Read `protocol.py` first.
"""
