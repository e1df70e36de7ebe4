"""Who may ask: the Host and Origin headers that Ollama lets through on a loopback address."""

import ipaddress
import re
import socket

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:[^/]*)?"
    r"|(app|file|tauri|vscode-webview|vscode-file|(chrome|moz|safari-web)-extension)://.*"
)


def is_host_allowed(host_header: str) -> bool:
    """Whether the host is a local name, or a loopback, private or unspecified address."""
    host = re.sub(r":\d*$", "", host_header) if host_header.count(":") == 1 else host_header
    host = host.lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names = ("", "localhost", socket.gethostname().lower())
        return host in names or host.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def is_origin_allowed(origin: str | None, host_header: str) -> bool:
    """Whether a browser's page of this origin may ask; no origin at all may."""
    if not origin or origin in (f"http://{host_header}", f"https://{host_header}"):
        return True
    return _ORIGIN.fullmatch(origin) is not None
