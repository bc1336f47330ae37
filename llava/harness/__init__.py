"""Other people's evaluation harnesses, asking models under a plan: lmms-eval (``models``), VLMEvalKit (``vlmevalkit``).

What only a harness's own package gives is imported where that package is installed.
"""
