"""SLURM on this machine: a controller and two nodes of one processor each, on free ports, with all
their files in one folder. The programs are from Debian's slurm-wlm. Each is ended by its process
id."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NODES = 2
_NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol")


def unavailable() -> str:
    """The reason why there is no SLURM here, or ""."""
    if os.geteuid() != 0:
        return "slurmd must be root"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    return f"{', '.join(missing)} missing: apt install slurm-wlm" if missing else ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Slurm:
    """A cluster of two nodes; use it as a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        for name in ("state", "spool", "log"):
            (folder / name).mkdir()
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "slurm.conf").write_text(self._config())
        self._daemons: list[subprocess.Popen[bytes]] = []

    def _config(self) -> str:
        host = socket.gethostname()
        controller, *nodes = free_ports(1 + NODES)
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={controller}",
            "SlurmUser=root",
            "AuthType=auth/none",
            "CredType=cred/none",
            "AuthInfo=cred_expire=5",  # a requeued job waits this long
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "MpiDefault=none",
            "SwitchType=switch/none",
            "ReturnToService=2",
            "KillWait=10",
            "SchedulerParameters=sched_interval=2,batch_sched_delay=1",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool/%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld",
            f"SlurmdLogFile={self.folder}/log/%n",
        ]
        for number, port in enumerate(nodes, 1):
            lines.append(
                f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 "
                "RealMemory=4000 State=UNKNOWN"
            )
        lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        return "\n".join(lines) + "\n"

    def __enter__(self) -> "Slurm":
        self._start("slurmctld", "-D")
        for number in range(1, NODES + 1):
            self._start("slurmd", "-D", "-N", f"n{number}")
        deadline = time.monotonic() + 60
        while self.typed("sinfo", "-h", "-o", "%t %D").split() != ["idle", str(NODES)]:
            if time.monotonic() > deadline:
                raise AssertionError(self.typed("sinfo", "-N", "-l") + self.logs())
            time.sleep(0.5)
        return self

    def __exit__(self, *error: object) -> None:
        self.typed("scancel", "--user=root")  # it kills what has not ended after `KillWait`
        deadline = time.monotonic() + 60
        while self.typed("squeue", "-h").strip() and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, *command: str) -> None:
        self._daemons.append(
            subprocess.Popen(
                command,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )

    def typed(self, *command: str, **environment: str) -> str:
        """Run a SLURM command, and return its output."""
        done = subprocess.run(
            command,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.stdout

    def state(self, job: str) -> str:
        """State of a job, such as RUNNING."""
        shown = self.typed("scontrol", "show", "job", job)
        return shown.partition("JobState=")[2].partition(" ")[0]

    def logs(self) -> str:
        return "".join(path.read_text()[-3000:] for path in (self.folder / "log").iterdir())
