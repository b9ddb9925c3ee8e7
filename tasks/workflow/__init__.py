"""A workflow class as a graph: definition, validation, plan, and the registry of the workflows that can run here.

`Workflow` itself, with `run`, is in `client`.
Read `definition.py` first.
"""
