"""The command line: a small file per verb, from arguments to a typed config to one call."""
