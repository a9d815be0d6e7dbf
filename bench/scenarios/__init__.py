"""What is measured: each module holds scenarios of one kind, `registry.py` has the whole list."""
