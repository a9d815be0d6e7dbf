"""Tests, by layer: unit, integration (real sockets and TLS) and system (real processes)."""
