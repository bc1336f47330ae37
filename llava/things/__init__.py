"""A small LLaVA of real parts: a DINOv2 trained on photographs and a pretrained language model, put together here."""
