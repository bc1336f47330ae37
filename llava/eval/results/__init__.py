"""The folder of a run: writing, resuming, reading, and the samples that a report draws."""
