"""A server that speaks the OpenAI API: ``python -m llava.serve.openai --model-path ...``; see docs/serving.md.

A request passes ``wire`` (its shape), ``images`` (its pictures), a ``Chat`` (its prompt), ``queue`` (its turn) and, inside one
``generate``, ``progress`` (its words as they come). ``app`` joins them.
"""
