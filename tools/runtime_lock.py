"""Writes requirements-run.txt: the part of the lock that the chapters need while they run.

Usage: python tools/runtime_lock.py
It holds what the first part of requirements.in needs, with the hashes of those files alone that
Linux on x86-64 takes for Python 3.10 and 3.11; a notebook that stands alone carries it along.
`make lock` calls this; it asks the package index which files there are.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
LOCK, RUN = ROOT / "requirements.txt", ROOT / "requirements-run.txt"
ALSO = {"ipykernel", "uv"}  # what runs the cells, and what installs all this
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]
PLATFORMS += [f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")] + ["linux_x86_64"]
HEAD = "# Part of requirements.txt: what the chapters need while they run. `make lock` writes it.\n"


def asked_for(text: str) -> set[str]:
    """Returns the names in the first part of requirements.in, up to what builds the book."""
    lines = text.partition("\njupyter-book")[0].splitlines()
    requirements = [line.partition("#")[0].strip() for line in lines]
    return {canonicalize_name(Requirement(line).name) for line in requirements if line} | ALSO


def entries(lock: str) -> list[tuple[str, set[str]]]:
    """Returns each pin of a lock, and who asks for it: names, or requirements.in."""
    found = []
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", lock)[1:]:
        who = re.findall(r"(?m)^    #(?: via)? +([\w.\[\]-]+)", entry)
        found.append(
            (
                entry.partition(" \\\n")[0],
                {canonicalize_name(name.partition("[")[0]) for name in who},
            )
        )
    return found


def name_of(pin: str) -> str:
    """Returns the normalized name in a pin."""
    return canonicalize_name(Requirement(pin).name)


def is_for_linux(pin: str) -> bool:
    """Tells whether a pin counts on Linux on x86-64, for one of the Pythons that TFF runs on."""
    marker = Requirement(pin).marker
    here = dict(
        sys_platform="linux",
        platform_system="Linux",
        platform_machine="x86_64",
        os_name="posix",
        platform_python_implementation="CPython",
        implementation_name="cpython",
    )
    return marker is None or any(
        marker.evaluate(here | dict(python_version=version, python_full_version=f"{version}.9"))
        for version in ("3.10", "3.11")
    )


def needed(lock: str, roots: set[str]) -> list[str]:
    """Returns those pins of a lock that some packages need, themselves included."""
    pins = [(pin, who) for pin, who in entries(lock) if is_for_linux(pin)]
    names, more = set(), set(roots)
    while more:
        names |= more
        more = {name_of(pin) for pin, who in pins if who & names} - names
    return [pin for pin, _ in pins if name_of(pin) in names]


def fitting(files: dict) -> list[str]:
    """Returns the SHA-256 of those files of a package that Linux on x86-64 would take."""
    tags = set()
    for version in ((3, 10), (3, 11)):
        tags |= set(cpython_tags(version, platforms=PLATFORMS))
        tags |= set(compatible_tags(version, f"cp3{version[1]}", PLATFORMS))
    wheels = [
        wheel
        for wheel in files.get("wheels", [])
        if parse_wheel_filename(wheel["url"].rpartition("/")[2])[3] & tags
    ]
    return sorted(file["hashes"]["sha256"] for file in wheels or [files["sdist"]])


def known_files(wanted: list[str]) -> dict[tuple[str, str], dict]:
    """Asks the index for the files of each package, by its name and version."""
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory() as folder:
        pins, lock = Path(folder, "pins.in"), Path(folder, "pylock.toml")
        pins.write_text("".join(f"{pin}\n" for pin in wanted), "utf-8")
        command = [uv, "pip", "compile", pins, "--no-deps", "--universal", "--quiet"]
        command += ["--python-version", "3.10", "--format", "pylock.toml", "--output-file", lock]
        subprocess.run(command, check=True)
        packages = tomllib.loads(lock.read_text("utf-8"))["packages"]
    return {(canonicalize_name(one["name"]), one["version"]): one for one in packages}


def main() -> None:
    """Writes the file."""
    roots = asked_for((ROOT / "requirements.in").read_text("utf-8"))
    wanted = needed(LOCK.read_text("utf-8"), roots)
    files, lines = known_files(wanted), [HEAD]
    for pin in wanted:
        version = str(Requirement(pin).specifier).removeprefix("==")
        hashes = fitting(files[name_of(pin), version])
        lines.append(" \\\n    ".join([pin, *(f"--hash=sha256:{one}" for one in hashes)]) + "\n")
    RUN.write_text("".join(lines), "utf-8")
    print(f"{RUN.name}: {len(wanted)} packages, {RUN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
