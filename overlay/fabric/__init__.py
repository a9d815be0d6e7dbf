"""The signed map of routers and the choice of a path."""
