"""A TUN device and all that is done with the packets that come from it."""
