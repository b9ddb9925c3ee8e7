"""The console: workflows to display, a server, and browser drivers."""
