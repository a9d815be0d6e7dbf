"""The conversation between nodes and controller on the `_control` circuit."""
