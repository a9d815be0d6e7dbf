"""The program at the asset: offers and hosts services, and only ever dials out."""
