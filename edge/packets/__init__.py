"""IP packets as bytes: reading, checking, rewriting and answering them. Pure, and used by the edge only."""
