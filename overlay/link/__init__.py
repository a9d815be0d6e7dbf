"""The link between two neighbours: state table, keepalive, multiplexing and fair turns."""
