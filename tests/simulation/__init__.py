"""A whole plant under seeded faults: what must hold is checked after every step."""
