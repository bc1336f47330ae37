"""Published rows run again: what papers print, what is measured here, and the difference with its interval."""
