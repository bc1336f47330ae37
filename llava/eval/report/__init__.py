"""Results folders to tables, figures and a page; ``command.py`` is the command line."""
