"""Commands that start something: a run, a worker, the server, a whole local deployment; one file per command.

Read `run.py` first.
"""
