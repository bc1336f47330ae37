"""lmms-eval's models, in the layout that its older releases read: ``LMMS_EVAL_PLUGINS=llava.harness``."""

AVAILABLE_MODELS = {"llava_condense": "LlavaCondense"}
