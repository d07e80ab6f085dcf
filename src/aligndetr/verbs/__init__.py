"""The verbs of the command line; `cli.py` calls them."""
