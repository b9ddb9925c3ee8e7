"""The modules of the server that users import directly below `umbel`; see `tasks/public`."""
