"""Hosting: circuits that come in are carried to the asset, which sees an ordinary client."""
