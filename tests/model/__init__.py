"""A model of resume that is searched exhaustively: the real cores of both ends, and all that a network may do to them."""
