"""A proxy URL: whether it can be used.

Knows no network, and never repeats the URL, which has a password in it.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

SCHEMES = ("socks5", "socks4", "http")


def proxy_fault(url: str, is_installed: Callable[[str], bool]) -> str:
    """What is wrong with the proxy, or an empty text.

    Telethon without python_socks ignores a proxy with a warning and connects directly, so
    its absence is a fault.
    """
    shape = "proxy must look like socks5://user:password@host:port or http://host:port"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return shape
    if parts.scheme not in SCHEMES or not host or not port:
        return shape
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        return f"{shape}, with nothing behind the port (write special characters as %40)"
    if not is_installed("python_socks"):
        return (
            "proxy needs the package python-socks; without it the bots would connect directly. "
            "Run: pip install 'python-socks[asyncio]'"
        )
    return ""
