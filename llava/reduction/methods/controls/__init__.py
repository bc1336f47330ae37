"""Controls: what every method must beat. None of them looks at what the tokens say."""
