"""HOST:PORT, in text and in parts; the brackets of an IPv6 address belong to the text only."""


def parse_address(text: str, *, lowest: int = 1) -> tuple[str, int] | None:
    """`HOST:PORT` or `[IPv6]:PORT` as (host, port); None for anything else, or a port below `lowest`."""
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    return (host, int(port)) if lowest <= int(port) <= 65_535 else None


def format_address(host: str, port: int) -> str:
    """The text for a host and a port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
