"""Methods inside the language model: they choose between its layers."""
