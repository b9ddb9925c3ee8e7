"""The past of runs over HTTP: points, what a run was like at one, forks and rewinds.

Read `routes.py` first; the console page has routes of its own over `requests.py`.
"""
