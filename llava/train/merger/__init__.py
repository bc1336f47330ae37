"""A merger's training by job.

``settings`` the configuration file, ``module`` what learns, ``examples`` what it learns from, ``forward`` how a model reads a
batch, ``losses`` how far two readings are from each other, ``loop`` the steps and their checkpoints, ``metrics`` the record.
"""
