"""A merger's training, one module per job.

``settings`` the configuration file, ``module`` what learns, ``examples`` what it learns from, ``forward`` how a model reads a
batch, ``losses`` how far two readings are apart, ``loop`` the steps and their checkpoints, ``metrics`` the record.
"""
