"""Tries `make train EXECUTOR=slurm` on a Slurm of its own: `make cluster`.

A controller and one node on this machine's loopback run jobs of every kind at scale `smoke`; a calibration is
cancelled midway with `scancel`, and the same command again resumes and finishes it. Needs root (the daemons change
user), Debian's `slurm-wlm` and `munge`, and a few minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "munged")
CONFIGURATION = """
ClusterName=pdelens
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=1
SchedulerParameters=sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
ONLY = "image-patch4-seed0,baselines-image-*,stacking,rung-image-patch4-full-k1-seed0,rung-minilm-full-k1-seed0"
CALIBRATION = "rung-minilm-full-k1-seed0"


def main() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None and not Path(f"/usr/sbin/{name}").exists()]
    if missing:
        sys.exit(f"Slurm is not installed ({missing[0]} is missing): `sudo apt install slurm-wlm munge`, then again.")
    if os.geteuid():
        sys.exit("the daemons of Slurm need root: `sudo make cluster`.")
    with tempfile.TemporaryDirectory(prefix="pdelens-slurm-") as scratch:
        folder = Path(scratch)
        environment, daemons = start(folder)
        try:
            trial(folder, environment)
        finally:
            run(["scancel", "--user=root"], environment, check=False)
            time.sleep(3)  # what is cancelled has a second of grace
            stop(daemons)


def start(folder: Path) -> tuple[dict[str, str], list[subprocess.Popen]]:
    """Start munge, controller and node; return the environment of those who use them, and the daemons."""
    ports = (26817, 26818)
    for name in ("munge", "state", "spool", "root"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    shutil.chown(folder / "munge", "munge", "munge")
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    shutil.chown(key, "munge", "munge")
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports, cores=os.cpu_count() or 1))
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = ["munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge/socket"]
    munge += [f"--{name}={folder}/munge/{name}" for name in ("pid-file", "log-file", "seed-file")]
    daemons = [
        subprocess.Popen(["runuser", "-u", "munge", "--", *munge], env=environment, stderr=subprocess.DEVNULL),
        subprocess.Popen(["slurmctld", "-D", "-i"], env=environment, stderr=subprocess.DEVNULL),
        subprocess.Popen(["slurmd", "-D", "-N", "localhost"], env=environment, stderr=subprocess.DEVNULL),
    ]
    until = time.monotonic() + 60
    while "idle" not in run(["sinfo", "--noheader", "--format=%T"], environment, check=False):
        if time.monotonic() > until:
            stop(daemons)
            sys.exit(f"Slurm did not come up: {(folder / 'slurmctld.log').read_text()[-500:]}")
        time.sleep(0.5)
    return environment, daemons


def stop(daemons: list[subprocess.Popen]) -> None:
    for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait(30)


def run(command: list[str], environment: dict[str, str], check: bool = True) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr}")
    return done.stdout


def trial(folder: Path, environment: dict[str, str]) -> None:
    """Run, cancel midway, run again; say what was seen."""
    import companion.surrogates.sweep  # noqa: F401  (`name_of` needs it, and a job would end while it is imported)

    home, project = Path(__file__).resolve().parents[2], folder / "project"
    project.mkdir()
    for name in ("data", "lib", "book"):
        (project / name).symlink_to(home / name)
    environment = environment | {"PDELENS_ROOT": str(project)}
    train = [sys.executable, "-m", "companion", "train", "--scale", "smoke", "--device", "cpu", "--executor", "slurm"]
    train += ["--only", ONLY, "--slurm", "timeout_min=10"]
    made = project / "_build/train/smoke"
    first = subprocess.Popen(train, env=environment, stderr=subprocess.PIPE, text=True)
    calibrated = made / f"{CALIBRATION}-calibrated.json"
    until = time.monotonic() + 420
    while not calibrated.exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if not calibrated.exists():
        first.kill()
        sys.exit(f"the calibration did not get midway: {first.communicate()[1]}")
    queued = dict(line.split() for line in run(["squeue", "-h", "-r", "-o", "%i %T"], environment).splitlines())
    number = next(n for n, state in queued.items() if state == "RUNNING" and name_of(made, n) == CALIBRATION)
    run(["scancel", number], environment)
    said = first.communicate(timeout=420)[1]
    assert f"Left: {CALIBRATION}" in said and not (made / f"{CALIBRATION}.json").exists(), said
    whole = sorted(path.stem for path in made.glob("*.json") if path != calibrated)
    print(f"Cancelled midway: Slurm job {number}, {CALIBRATION}. Whole without it: {', '.join(whole)}.")
    weights = (made / f"{CALIBRATION}.safetensors").read_bytes()
    again = subprocess.run(train, env=environment, stderr=subprocess.PIPE, text=True, timeout=420)
    assert again.returncode == 0, again.stderr
    record = json.loads((made / f"{CALIBRATION}.json").read_text())["record"]
    assert (made / f"{CALIBRATION}.safetensors").read_bytes() == weights, "it was calibrated anew"
    assert again.stderr.count("of all") == 1, f"only what was left is done: {again.stderr}"
    print(f"Run again: resumed and whole, state R2 {min(record['judged']['1']['r2']):.3f} at one step a layer.")


def name_of(made: Path, number: str) -> str:
    """Return the name of the job that a Slurm number stands for."""
    import pickle  # submitit's own file, written a moment ago by this very program

    return pickle.loads((made / "slurm" / f"{number}_submitted.pkl").read_bytes()).args[0].name


if __name__ == "__main__":
    main()
