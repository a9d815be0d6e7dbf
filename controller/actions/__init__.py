"""The action layer: everything that is decided, written and audited goes through here."""
