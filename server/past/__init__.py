"""The past of runs over HTTP: points, the run at a point, forks and rewinds.

Read `routes.py` first. The console page has its own routes, which share `requests.py`.
"""
