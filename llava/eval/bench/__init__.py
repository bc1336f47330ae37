"""Time and memory of plans and selectors; ``plans.py`` is the command line."""
