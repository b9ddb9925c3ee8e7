"""What `@step` makes of a function: signature, configuration, joins and fan-ins.

How steps fit together is checked in `workflow`.
Read `decorators.py` first.
"""
