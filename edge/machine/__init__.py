"""This machine: what its kernel is asked, what an edge changes on it, and how that is taken back."""
