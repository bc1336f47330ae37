"""From pictures to the rows of a prompt: normal form, crops, splice."""
