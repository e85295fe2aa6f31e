"""Where a server listens: who can reach the address, and whether it is free; told before anything heavy is loaded."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_taken(port: int) -> bool:
    """Whether a port of loopback cannot be listened at: another program has it, or it is not for this user."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def listening(host: str, port: int) -> socket.socket:
    """A socket at the address; port 0 takes a free one. Raises OSError with the way out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"{host}:{port}: {reason}; choose another with --host and --port"
        ) from None
    return listener
