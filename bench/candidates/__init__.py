"""What is measured side by side: one module per program or set-up, each with the interface of `base.py`."""
