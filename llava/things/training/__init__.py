"""How the parts learn to work together: the projector is aligned with the words first, then ``llava.train.train`` follows."""
