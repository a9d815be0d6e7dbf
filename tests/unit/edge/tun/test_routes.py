"""Routes of a device that has vanished in the meantime."""

import errno

import pytest

from edge.tun.routes import TunRoutes


def test_a_device_that_is_gone_is_an_error_of_the_system_which_is_tried_again():
    with pytest.raises(OSError, match="nosuch0") as caught:
        TunRoutes(list).ready("nosuch0", [])
    assert caught.value.errno == errno.ENODEV
