"""A small LLaVA of real parts: a DINOv2 that sees photographs and a language model that speaks, put together here."""
