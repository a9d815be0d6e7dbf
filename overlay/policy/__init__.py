"""Zones, assets, conduits, their evaluation with reasons, and grants."""
