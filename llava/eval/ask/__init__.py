"""A question becomes a line: the model under evaluation, the inference loop, measurements and control plans."""
