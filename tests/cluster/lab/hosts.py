"""Machines on this machine. Each is a set of namespaces with its own sshd, private address and
root, and they share one folder.

    with Laboratory(folder, ["head", "w1"]) as lab:
        lab["laptop"].run("ssh head hostname")
        lab["w1"].kill()      # as if its plug were pulled
        lab["w1"].cut()       # as if its cable were

None of them outlives this process, however it ends. What runs in them sees neither this machine's
processes nor its network, and cannot change its files. Needs root, and Debian's packages iproute2,
openssh-server and rsync.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

HOME = "/home/lab"  # home of root, the only user of the hosts
SHARED = "/mnt/vistune"
LAPTOP = "laptop"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS = ("ip", "unshare", "nsenter", "setpriv", "rsync", "ssh", "/usr/sbin/sshd")
_NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")
_START_S = 30


def unavailable() -> str:
    """The reason why there can be no laboratory here, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are namespaces of Linux, which root alone may make"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} missing: apt-get install iproute2 openssh-server rsync"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False
    )
    return f"no namespaces here ({tried.stderr.strip()})" if tried.returncode else ""


class Host:
    """One machine."""

    def __init__(self, name: str, address: str, lab: Path):
        self.name, self.address = name, address
        command = [
            "bash",
            str(Path(__file__).with_name("host.sh")),
            name,
            str(lab),
            HOME,
            sys.prefix,
        ]
        # Each dies with its parent: host -> unshare -> this process.
        unshare = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            *_NAMESPACES,
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
        ]
        self.console = lab / f"{name}.log"
        out = self.console.open("w")
        self._process = subprocess.Popen(
            [*unshare, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        self.pid = self._first_process()

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            found = children.read_text().split()
            if (
                found
                and Path(f"/proc/{found[0]}/root/run/ready").exists()
                and Path(f"/proc/{found[0]}/root{HOME}").exists()
            ):
                return int(found[0])
            time.sleep(0.05)
        self._process.kill()
        raise RuntimeError(f"host {self.name} did not come up: {self.console.read_text()[-2000:]}")

    def command(self, script: str) -> list[str]:
        """argv that runs a line of bash on this host, in a login environment."""
        inside = [
            "nsenter",
            "-t",
            str(self.pid),
            "-m",
            "-n",
            "-p",
            "-u",
            "-i",
            "-r",
            "-w",
            "env",
            "-i",
        ]
        return [
            *inside,
            f"HOME={HOME}",
            "USER=root",
            "TERM=dumb",
            "LANG=C.UTF-8",
            f"PATH={_PATH}",
            "bash",
            "-l",
            "-c",
            script,
        ]

    def run(self, script: str, *, timeout: float = 120, check: bool = True) -> str:
        """Run a line of bash on this host, and return its output and errors together.

        Raises:
            RuntimeError: it failed, if `check`.
        """
        done = subprocess.run(
            self.command(script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: `{script}` ended with {done.returncode}: {done.stdout[-4000:]}"
            )
        return done.stdout

    def start(self, script: str) -> "subprocess.Popen[bytes]":
        """Run a line of bash in the background, until this host or this process ends."""
        command, nothing = (
            ["setpriv", "--pdeathsig", "KILL", *self.command(script)],
            subprocess.DEVNULL,
        )
        return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)

    def kill(self) -> None:
        """Pull the plug: everything on this host dies, and its disk, which is in memory, is
        lost."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def cut(self) -> None:
        """Pull the cable: connections to this host wait for answers."""
        subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "ip", "link", "set", "eth0", "down"], check=True
        )


class Laboratory:
    """A laptop and hosts on one bridge. `shared` is the folder that all of them mount at
    /mnt/vistune."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder, self.shared = folder, folder / "shared"
        self._addresses = {LAPTOP: "10.77.0.1"} | {
            name: f"10.77.0.{11 + i}" for i, name in enumerate(names)
        }
        self._hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def address(self, name: str) -> str:
        return self._addresses[name]

    def __enter__(self) -> Self:
        self.shared.mkdir(parents=True)
        lines = [
            "127.0.0.1 localhost",
            *(f"{address} {name}" for name, address in self._addresses.items()),
        ]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key")],
            check=True,
        )
        try:
            for name in self._addresses:
                self.boot(name)
            self[LAPTOP].run(
                f"cat > ~/.ssh/vistune <<'END'\n{(self.folder / 'key').read_text()}END\nchmod 600 "
                "~/.ssh/vistune"
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for host in self._hosts.values():
            host.kill()

    def boot(self, name: str) -> None:
        """Start a host, again if it was killed, and plug it into the bridge, which is on the
        laptop."""
        host = self._hosts[name] = Host(name, self._addresses[name], self.folder)
        _refuse_to_see_others(host)
        if name == LAPTOP:
            _ip(
                host,
                "link add bridge0 type bridge",
                f"addr add {host.address}/24 dev bridge0",
                "link set bridge0 up",
            )
            _ip(host, "route add default dev bridge0")
            return
        laptop = self[LAPTOP]
        _ip(
            laptop,
            f"link add plug-{name} type veth peer name eth0 netns {host.pid}",
            f"link set plug-{name} master bridge0 up",
        )
        # Ray uses the address of the default route as its own, though no packet leaves that way.
        _ip(
            host,
            f"addr add {host.address}/24 dev eth0",
            "link set eth0 up",
            "route add default dev eth0",
        )


def _ip(host: Host, *commands: str) -> None:
    for command in commands:
        subprocess.run(["nsenter", "-t", str(host.pid), "-n", "ip", *command.split()], check=True)


def _refuse_to_see_others(host: Host) -> None:
    """Check that the host sees only its own processes, because `ray stop` ends every Ray process
    that it sees."""
    seen = host.run("ls -d /proc/[0-9]* | wc -l; cat /proc/1/cmdline | tr '\\0' ' '")
    count, _, first = seen.partition("\n")
    if int(count) > 20 or "host.sh" not in first:
        host.kill()
        raise RuntimeError(
            f"host {host.name} sees processes of this machine, which it might end: {seen}"
        )
