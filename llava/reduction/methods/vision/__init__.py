"""Methods before the language model: they choose among what the vision tower has made."""
