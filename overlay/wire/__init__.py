"""Bytes: the frame header, the families of frames and the incremental decoder."""
