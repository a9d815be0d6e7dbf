"""The operator's command line, which speaks only to the API."""
