"""The address of an endpoint: where to post, what may be shown of it, and the proxies on the way there."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

from polythink.errors import UserError

if TYPE_CHECKING:
    import httpx

CHAT = "/chat/completions"
HIDDEN = "***"  # stands for user:password where an address is written to a file or shown
ENVIRONMENT = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


class Address(NamedTuple):
    """An endpoint's address, taken apart."""

    url: str  # to post to, without user and password
    user: tuple[str, str] | None  # name and password, for basic authentication
    shown: str  # in messages: without the query, which may hold a key


def read_address(given: str, endpoint: str = CHAT) -> Address:
    """The parts of a base address as servers print it (.../v1), or of the full one, with or without a query.

    `endpoint` is the path below the base address.
    Spaces around it and a fragment (#...) are dropped: neither is ever sent.
    """
    import httpx

    try:
        parsed = httpx.URL("" if re.search(r"\s", given.strip()) else given.strip())
        parsed.host.encode("idna")  # as it is looked up
        fine = parsed.scheme in ("http", "https") and parsed.host and (parsed.port or 0) < 1 << 16
    except (httpx.InvalidURL, ValueError):
        fine = False
    if not fine:
        raise UserError(f"the endpoint must be an address like http://localhost:8000/v1, got {masked(given)!r}")
    if parsed.username == HIDDEN:
        raise UserError(
            f"the address {without_password(given)} has lost its user and password, which are written to no file; put "
            "them in an environment variable (export TEACHER_KEY=\"Basic $(printf 'user:password' | base64)\") and "
            "name it under key_env"
        )
    path, mark, query = parsed.raw_path.decode("ascii").partition("?")
    path = path.rstrip("/")
    shown = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}{path if path.endswith(endpoint) else path + endpoint}"
    return Address(shown + mark + query, (parsed.username, parsed.password) if parsed.userinfo else None, shown)


def without_password(url: str) -> str:
    """The address as it may be written to a file: `***` where user and password stood."""
    return re.sub(r"^(\s*[A-Za-z][\w+.-]*://)[^/?#]*@", rf"\1{HIDDEN}@", url)


def masked(text: str) -> str:
    """The same for what may not be an address: everything up to the last @ is hidden."""
    return re.sub(r"^([A-Za-z][\w+.-]*://)?.*@", rf"\1{HIDDEN}@", text, flags=re.DOTALL)


# ---- proxies ----


def open_client(url: str, **options: Any) -> tuple[httpx.AsyncClient, str | None]:
    """An HTTP client, and the proxy through which it asks `url`.

    `UserError` where the environment's proxies or certificates cannot be used.
    """
    import httpx

    try:
        return httpx.AsyncClient(**options), proxy_of(url)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        given = {name: value for name, value in os.environ.items() if name.lower() in ENVIRONMENT and value}
        settings = ", ".join(f"{name}={masked(value)}" for name, value in given.items())
        # the message of InvalidURL may hold a part of a password
        reason = "an entry is not an address" if isinstance(error, httpx.InvalidURL) else str(error).rstrip(".")
        raise UserError(
            f"the environment's settings for connections cannot be used ({settings}): {reason}; unset what is wrong: "
            "proxies are addresses like http://host:3128, NO_PROXY is a list of host names and plain IP addresses"
        ) from None


def proxy_of(url: str) -> str | None:
    """The environment's proxy for an address, as it may be shown; none if it is asked directly.

    `InvalidURL` or `ValueError` for a proxy that cannot be looked up.
    """
    import httpx

    parsed, proxies = httpx.URL(url), getproxies()
    found = proxies.get(parsed.scheme) or proxies.get("all")
    if not found or proxy_bypass(parsed.host):
        return None
    proxy = httpx.URL(found if "://" in found else f"http://{found}")
    proxy.host.encode("idna")
    if (proxy.port or 0) >= 1 << 16:
        raise ValueError(f"there is no port {proxy.port}")
    return without_password(found)
