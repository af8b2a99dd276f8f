"""Builds .venv from the pip section of environment.yml; needs nothing but the standard library.

Run by `make` with the machine's own Python. Every failure is one sentence that names the cure.
The syntax stays old on purpose, so that an old Python can still say that it is too old.
"""

import hashlib
import os
import re
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
UNREACHABLE = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Connection refused"
    r"|Max retries exceeded|Name or service not known|Network is unreachable|ConnectTimeout"
    r"|Connection to .* timed out|Read timed out|ProxyError|No route to host"
    r"|Connection reset|ReadTimeoutError|NewConnectionError|NameResolutionError|MaxRetryError"
    # what is left to see where retries are turned off: an index without a single version
    r"|from versions: none"
)


def stop(sentence):
    sys.stderr.write("pdelens: " + sentence + "\n")
    sys.exit(1)


def requirements():
    """Return the lines of the pip section: the deepest list of environment.yml."""
    with open(os.path.join(ROOT, "environment.yml")) as stream:
        text = stream.read()
    section = text.split("- pip:", 1)[1]
    return re.findall(r"^ {6}- (\S.*?)\s*$", section, flags=re.MULTILINE)


def check_python():
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        stop(
            "Python %d.%d was found, but 3.11 to 3.13 is needed: install one of these and name it, "
            "for instance `make PYTHON=python3.12`." % version
        )
    try:
        __import__("ensurepip")
        __import__("venv")
    except ImportError:
        stop(
            "Python's ensurepip is missing, so no virtual environment can be made: install it, "
            "on Debian and Ubuntu with `sudo apt install python3-venv`, then run make again."
        )


def run_pip(command, log):
    """Run pip, echoing the lines that show progress; return its exit status and what it printed."""
    printed = []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, cwd=ROOT
    )
    with open(log, "w") as stream:
        for line in process.stdout or []:
            stream.write(line)
            printed.append(line)
            if re.match(r"Collecting|  Downloading|Processing|Installing|Building|Successfully", line):
                sys.stdout.write("  " + line.strip()[:110] + "\n")
                sys.stdout.flush()
    return process.wait(), "".join(printed)


def install(python, packages, log, torch_index):
    command = [python, "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    steps = [packages]
    if torch_index:
        # torch first, from the index that was asked for; the rest then finds it installed.
        torch = [package for package in packages if re.match(r"torch(vision)?==", package)]
        steps = [["--index-url", torch_index] + torch, packages]
    for arguments in steps:
        flat = []
        for argument in arguments:
            flat.extend(argument.split())
        status, printed = run_pip(command + flat, log)
        if status and "No space left on device" in printed:
            stop("the disk is full: free about 3 GB (6 GB with a CUDA build of torch), then run make again.")
        if status and UNREACHABLE.search(printed):
            stop(
                "the package index could not be reached: check the network, or name a mirror with "
                "`PIP_INDEX_URL=... make`, then run make again (the log is %s)." % log
            )
        if status:
            sys.stderr.write("".join(line for line in printed.splitlines(True) if "ERROR" in line))
            stop("pip could not install the packages of environment.yml; the whole log is %s." % log)


def main():
    check_python()
    packages = requirements()
    folder = os.path.join(ROOT, ".venv")
    python = os.path.join(folder, "bin", "python")
    stamp = os.path.join(folder, "pdelens-environment")
    torch_index = os.environ.get("TORCH_INDEX", "")
    wanted = hashlib.sha256("\n".join(packages + [sys.version, ROOT]).encode()).hexdigest()
    try:
        with open(stamp) as stream:
            if stream.read() == wanted:
                return
    except OSError:
        pass
    print("Building .venv with %s: about 1.6 GB, 2 minutes on a fast network." % sys.version.split()[0])
    # --clear would throw a usable environment away: pip brings an older one up to date.
    if subprocess.call([sys.executable, "-m", "venv", folder]):
        stop("`python -m venv` failed in .venv: remove that folder, then run make again.")
    build = os.path.join(ROOT, "_build")
    os.makedirs(build, exist_ok=True)
    install(python, packages, os.path.join(build, "pip.log"), torch_index)
    with open(stamp, "w") as stream:
        stream.write(wanted)
    print("The environment is ready in .venv (activate it with `. .venv/bin/activate`).")


if __name__ == "__main__":
    main()
