"""Routes and data shapes of the console page.

The page itself, without a build step, is in `page`.
Read `routes.py` first.
"""
