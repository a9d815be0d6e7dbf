"""What the three programs share: identities, frames, links, circuits, policy and audit."""
