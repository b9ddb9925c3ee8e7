"""What `@step` makes of a function: signature, configuration, joins and fan-ins.

Whether the steps of a workflow fit together is checked in `workflow`.
Read `decorators.py` first.
"""
