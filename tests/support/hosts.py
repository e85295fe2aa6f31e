"""Two hosts and a bridge between them, as network namespaces of this machine: own interfaces, one file system."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A network namespace, its address, and its end of the cable."""

    namespace: str
    address: str
    interface: str

    def command(self, *command: str) -> list[str]:
        """A command as run on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def cut_off(self) -> None:
        """Nothing goes to this host or comes from it any more, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", self.interface, "down")


@contextlib.contextmanager
def hosts_on_a_bridge(count: int) -> Iterator[list[Host]]:
    """The first of the hosts is the bridge itself. Skips the test where namespaces cannot be made; none is left behind."""
    if not shutil.which("ip"):
        pytest.skip("no `ip` command: install iproute2")
    with contextlib.ExitStack() as stack:
        try:
            hosts = [_host(number, stack) for number in range(count)]
            bridge = hosts[0]
            _ip("-n", bridge.namespace, "link", "add", bridge.interface, "type", "bridge")
            for number, host in enumerate(hosts[1:], 1):
                end = ("peer", "name", host.interface, "netns", host.namespace)
                _ip("-n", bridge.namespace, "link", "add", f"port{number}", "type", "veth", *end)
                _ip("-n", bridge.namespace, "link", "set", f"port{number}", "master", bridge.interface, "up")
            for host in hosts:
                _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", host.interface)
                _ip("-n", host.namespace, "link", "set", host.interface, "up")
                _ip("-n", host.namespace, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {' '.join(error.cmd)}: {error.stderr.strip()}")
        yield hosts


def _host(number: int, stack: contextlib.ExitStack) -> Host:
    host = Host(
        namespace=f"brickroad-{os.getpid()}-{number}", address=f"10.77.0.{number + 1}", interface="wire"
    )
    _ip("netns", "add", host.namespace)
    stack.callback(_ip, "netns", "delete", host.namespace)
    return host


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
