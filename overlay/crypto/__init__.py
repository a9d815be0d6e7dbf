"""The handshake without I/O, sealed records, signatures and checkpoints."""
