"""What OLLAMA_HOST means: the address of a server, as Ollama itself reads it."""

import ipaddress


def ollama_url(text: str) -> str:
    """The base URL that `OLLAMA_HOST` means, without a slash at the end.

    Takes `host`, `host:port` and `http(s)://host:port/path`. Without a scheme the port is 11434,
    with one it is the scheme's own; an address that means "any" becomes loopback; a port that
    isn't one falls back to the default. Source: Ollama, envconfig/config.go.
    """
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    default_port = {"http": "80", "https": "443"}.get(scheme, "11434") if separator else "11434"
    hostport, _, path = rest.partition("/")
    host, port = _split_host_port(hostport)
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        port = default_port
    host = _connectable(host or "127.0.0.1")
    return f"{scheme}://{host}:{port}/{path}".rstrip("/")


def _split_host_port(hostport: str) -> tuple[str, str]:
    if hostport.startswith("["):
        host, _, port = hostport[1:].partition("]")
        return host, port.removeprefix(":")
    if hostport.count(":") == 1:
        host, _, port = hostport.partition(":")
        return host, port
    return hostport, ""


def _connectable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
