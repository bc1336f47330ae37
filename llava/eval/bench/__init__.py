"""Time and memory of plans and of selectors; ``command.py`` is the command line."""
