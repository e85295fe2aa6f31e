"""At which addresses processes really listen, as the system has it."""

import contextlib
import ipaddress

import psutil


def listening_addresses(process: psutil.Process) -> set[str]:
    """Of a process and all below it."""
    found = set[str]()
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found |= {
                    each.laddr.ip for each in one.net_connections("inet") if each.status == psutil.CONN_LISTEN
                }
    return found


def reachable_by_others(addresses: set[str]) -> set[str]:
    """Those that are not loopback."""
    return {one for one in addresses if not ipaddress.ip_address(one).is_loopback}
