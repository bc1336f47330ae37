"""What a family of decoders needs said for the engine to run it."""
