"""The console: workflows to look at, a server, and what drives a browser."""
