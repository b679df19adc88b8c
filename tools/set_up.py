"""Makes or renews the Python environment and the test S3 server: what `make setup` runs. Needs only Python itself.

    python3 tools/set_up.py [--venv .venv] [--accelerator cpu|cuda] [--installer uv|pip] [--force]

It does nothing when pyproject.toml, constraints.txt, the tools and the Python are those of the last time.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)
STAMP = ".set-up"
INPUTS = ("pyproject.toml", "constraints.txt", "tools/set_up.py", "tools/deepspeed_wheel.py", "tools/versitygw/*")
NOT_COMPILED = r"site-packages/.*/tests?/|site-packages/torch/testing/_internal/"  # what nobody imports here
LIVE = sys.stdout.isatty()
CLEAR = "\r\033[K" if LIVE else ""  # back to the start of the line, and empty it
COMMANDS = {"g++": "g++", "make": "make"}  # program: Debian package


def missing_packages(has_header: bool, has_ensurepip: bool, has_command: dict[str, bool]) -> list[str]:
    """Return the Debian packages to install, in a fixed order."""
    missing = [package for command, package in COMMANDS.items() if not has_command[command]]
    missing += [] if has_header else ["python3-dev"]
    missing += [] if has_ensurepip else ["python3-venv"]
    return missing


def check_machine() -> None:
    """Stop with the one apt line that is missing, or with the Python that is needed."""
    if sys.version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        sys.exit(
            f"Python {wanted} or newer is needed, this is {sys.version.split()[0]}: run make PYTHON=/path/to/python3"
        )
    header = Path(sysconfig.get_path("include"), "Python.h").exists()
    try:
        import ensurepip  # noqa: F401 -- Debian ships it in a package of its own
    except ImportError:
        ensurepip_found = False
    else:
        ensurepip_found = True
    missing = missing_packages(header, ensurepip_found, {command: bool(shutil.which(command)) for command in COMMANDS})
    if missing:
        sys.exit(
            f"Some packages of this machine are missing. Run:\n\n    sudo apt-get install -y {' '.join(missing)}\n"
        )


def fingerprint(root: Path, facts: Sequence[str]) -> str:
    """Return a hash over the files that decide what set-up makes, and over `facts`."""
    digest = hashlib.sha256("\n".join(facts).encode())
    for path in sorted(path for pattern in INPUTS for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def default_accelerator() -> str:
    """Return "cuda" if the NVIDIA driver answers, else "cpu"."""
    try:
        return (
            "cuda" if subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0 else "cpu"
        )
    except OSError:
        return "cpu"


def pinned(constraints: str, name: str) -> str:
    """Return the version that constraints.txt pins for a distribution; LookupError if it pins none."""
    found = re.search(rf"^{re.escape(name)}==(\S+)", constraints, re.MULTILINE)
    if found is None:
        raise LookupError(f"constraints.txt has no line {name}==VERSION; run: make constraints")
    return found[1]


@dataclass(frozen=True)
class Steps:
    """Runs commands one after the other, each with its title and time; their output goes to `log`."""

    log: Path

    def run(self, title: str, command: Sequence[str | Path], if_it_fails: str | None = None) -> str:
        """Run a command in the repository and return its standard output.

        A failure ends the set-up with the last lines of the output, unless `if_it_fails` says what it means to go on.
        """
        begun = time.monotonic()
        words = [str(word) for word in command]
        with self.log.open("a") as log:
            print(f"\n## {title}\n$ {' '.join(words)}", file=log, flush=True)
            process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
            output = self._wait(title, process, begun)
            log.write(output)
        seconds = time.monotonic() - begun
        if process.returncode != 0 and if_it_fails is None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            sys.exit(f"\n{title}: failed after {seconds:.0f} s. The end of {self.log}:\n{tail}")
        print(f"{CLEAR}{title}: {seconds:.0f} s", flush=True)
        if process.returncode != 0:
            print(f"  note: {if_it_fails} (exit code {process.returncode}, see {self.log})", flush=True)
        return output

    @staticmethod
    def _wait(title: str, process: subprocess.Popen[str], begun: float) -> str:
        print(f"{title} ...", end="" if LIVE else "\n", flush=True)
        while True:
            try:
                return process.communicate(timeout=1 if LIVE else 60)[0]
            except subprocess.TimeoutExpired:
                seconds = f"{time.monotonic() - begun:.0f} s"
                print(
                    f"{CLEAR}{title}: {seconds} ..." if LIVE else f"  {seconds}", end="" if LIVE else "\n", flush=True
                )


def installer(steps: Steps, python: Path, wanted: str | None, uv_version: str) -> list[str]:
    """Return the command that installs into `python`: uv from PATH, else uv put into the environment, else pip."""
    uv = python.with_name("uv")
    if wanted != "pip" and (on_path := shutil.which("uv")):
        return [on_path, "pip", "install", "--python", str(python)]
    if wanted != "pip" and not uv.exists():
        get_uv = [str(python), "-m", "pip", "install", "--quiet", f"uv=={uv_version}"]
        steps.run("fetch uv, a faster installer", get_uv, if_it_fails="pip is used instead")
    if wanted != "pip" and uv.exists():
        return [str(uv), "pip", "install", "--python", str(python)]
    return [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]  # done once for all, below


def make_environment(venv: Path, accelerator: str, wanted: str | None, steps: Steps) -> None:
    """Bring `venv` to what constraints.txt says, with DeepSpeed's ops compiled in and every module byte-compiled."""
    python = venv / "bin" / "python"
    constraints = (ROOT / "constraints.txt").read_text()
    install = installer(steps, python, wanted, pinned(constraints, "uv"))
    # The constraints are exactly what all extras need, so they are the list to install; DeepSpeed needs torch first.
    rest = venv / "requirements.txt"
    rest.write_text("".join(line for line in constraints.splitlines(True) if not line.startswith("deepspeed==")))
    steps.run("install the pinned dependencies (about 6 GB)", [*install, "-r", rest])
    version = pinned(constraints, "deepspeed")
    build = [str(python), "tools/deepspeed_wheel.py", "--accelerator", accelerator, "--version", version]
    built = steps.run(f"compile DeepSpeed's {accelerator} ops, once on this machine (2 to 8 minutes)", build)
    wheel = built.strip().splitlines()[-1]
    steps.run("install DeepSpeed", [*install, "--no-deps", "--force-reinstall", wheel])
    steps.run("install finetune-operator", [*install, "--no-deps", "--no-build-isolation", "-e", "."])
    # uv writes no .pyc files: without them each process compiles what it imports, 7 to 15 s for deepspeed alone.
    compile_all = [str(python), "-m", "compileall", "-qq", "-j", "0", "-x", NOT_COMPILED, site_packages(python)]
    steps.run("byte-compile the environment", compile_all, if_it_fails="some files do not parse as Python")


def site_packages(python: Path) -> str:
    """Return the site-packages folder of another interpreter."""
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="folder of the environment")
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], help="what DeepSpeed is built for")
    parser.add_argument("--installer", choices=["uv", "pip"], help="which installer to use")
    parser.add_argument("--force", action="store_true", help="run every step again")
    arguments = parser.parse_args()
    check_machine()
    accelerator = arguments.accelerator or default_accelerator()
    stamp = arguments.venv / STAMP
    wanted = fingerprint(ROOT, [sys.version, accelerator, str(arguments.venv.resolve())])
    if not arguments.force and stamp.exists() and stamp.read_text() == wanted:
        return
    begun = time.monotonic()
    python = arguments.venv / "bin" / "python"
    if not python.exists():
        print(f"make the environment {arguments.venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", arguments.venv], check=True)
    steps = Steps(arguments.venv / "set-up.log")
    make_environment(arguments.venv, accelerator, arguments.installer, steps)
    build = [str(python), "tools/s3_server.py", "--build"]
    steps.run("build the test S3 server, once on this machine", build, if_it_fails="tests that need S3 will fail")
    stamp.write_text(wanted)
    print(f"set up in {time.monotonic() - begun:.0f} s; log: {steps.log}")


if __name__ == "__main__":
    main()
