"""The catalogue of events, the Merkle log and receipts."""
