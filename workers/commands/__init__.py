"""The commands of `umbel`, one file per group. What is shared: options and outputs; what they do is elsewhere."""
