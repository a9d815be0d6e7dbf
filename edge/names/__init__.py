"""Names of assets: a resolver on the edge, and how the host comes to ask it."""
