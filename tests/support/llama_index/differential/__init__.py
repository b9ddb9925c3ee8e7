"""Workflows as users write them, each with what it publishes, returns or raises.

`program.py` executes all of them, in LlamaIndex Workflows or on umbel. `cases.py` has the helpers that they use; the
other files are the cases, by subject. None of them contains a line that is specific to umbel.
"""
