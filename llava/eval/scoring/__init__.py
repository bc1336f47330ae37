"""LLaVA's answer files: writing them, and scoring them with the tasks' own rules."""
