"""Workflows as their users write them, each with what it publishes, returns or raises.

`program.py` executes all of them, in LlamaIndex Workflows or on umbel. `cases.py` is what they are written with; the
other files are the cases, by subject. Not a line of them is umbel's.
"""
