"""The asyncio side: the seam to the world, drivers, dialer, listener, spool and lifecycle."""
