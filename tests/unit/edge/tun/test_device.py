"""What is written to a device that is gone goes nowhere; a real one is in `tests/integration/test_tun.py`."""

import os

from edge.tun.device import TunDevice


def test_nothing_is_written_to_whoever_has_the_number_of_a_queue_that_was_closed():
    """An asset's late answer must not end in another connection, or in a file."""
    device = TunDevice.__new__(TunDevice)  # which needs CAP_NET_ADMIN otherwise
    reading, queue = os.pipe()
    device.queues = (queue,)
    assert device.write(b"packet", queue)
    assert os.read(reading, 100) == b"packet"
    device.close()
    os.close(reading)
    reading, other = os.pipe()
    try:
        assert other == queue, "the system gives the lowest number that is free"
        assert not device.write(b"packet", queue)
        os.set_blocking(reading, False)
        os.close(other)
        assert os.read(reading, 100) == b""
    finally:
        os.close(reading)
