"""Methods that can stand anywhere, since they look at the tokens alone."""
