"""The circuit between two edges: state table, credit, sealing and resume."""
