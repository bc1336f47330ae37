"""A web page: ``llava demo``; a picture, a question, and two plans side by side.

``controls`` (a plan from a method, a layer and a budget), ``asking`` (one question under several plans), ``observing`` (what
each kept and cost), ``drawing`` (kept patches on the picture), ``fragments`` (HTML) and ``examples`` need no gradio. ``page`` and
``picture`` are the page itself.
"""
