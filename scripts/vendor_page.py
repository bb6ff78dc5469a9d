"""Renew the JavaScript that the live page brings along: ``python3 scripts/vendor_page.py [--check]``.

Each package is fetched with ``npm pack`` in the version that stands below; imports of other packages become
imports of the files beside, because a page without inline scripts cannot have an import map. The manifest
notes versions, licences and hashes; ``--check`` only compares the files with it, without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "src" / "stepwell" / "server" / "page" / "assets" / "vendor"
MANIFEST = VENDOR / "manifest.json"


@dataclass(frozen=True, slots=True)
class Package:
    """One package of the registry; ``files``: where each lies in it, and its name here."""

    name: str
    version: str
    licence: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "preact", "11.2.0", "MIT", {"dist/preact.mjs": "preact.mjs", "hooks/dist/hooks.mjs": "hooks.mjs"}
    ),
    Package("htm", "3.1.1", "Apache-2.0", {"dist/htm.mjs": "htm.mjs", "preact/index.mjs": "htm-preact.mjs"}),
    Package("@preact/signals-core", "1.14.5", "MIT", {"dist/signals-core.mjs": "signals-core.mjs"}),
    Package("@preact/signals", "2.11.4", "MIT", {"dist/signals.mjs": "signals.mjs"}),
    Package(
        "uplot",
        "1.6.32",
        "MIT",
        {"dist/uPlot.iife.min.js": "uplot.js", "dist/uPlot.min.css": "uplot.css"},
    ),
)
IMPORTS = {
    "preact": "./preact.mjs",
    "preact/hooks": "./hooks.mjs",
    "htm": "./htm.mjs",
    "@preact/signals-core": "./signals-core.mjs",
}
SPECIFIER = re.compile(r'\bfrom ?"([^"./][^"]*)"|\bimport ?"([^"./][^"]*)"')
SOURCE_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*$")


def adapted(text: str) -> str:
    """With imports of the files beside, and without a map of sources that are not there."""

    def local(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return match[0].replace(f'"{name}"', f'"{IMPORTS[name]}"')

    return SOURCE_MAP.sub("", SPECIFIER.sub(local, text)).rstrip() + "\n"


def fetch(package: Package, folder: Path) -> tarfile.TarFile:
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return tarfile.open(folder / packed.stdout.split()[-1])


def read(archive: tarfile.TarFile, name: str) -> str:
    member = archive.extractfile(f"package/{name}")
    assert member is not None
    return member.read().decode("utf-8")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def renew() -> None:
    VENDOR.mkdir(parents=True, exist_ok=True)
    entries, licences = [], []
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            with fetch(package, Path(folder)) as archive:
                licences.append(f"{package.name} {package.version}\n\n{read(archive, 'LICENSE').strip()}\n")
                for inside, here in package.files.items():
                    content = adapted(read(archive, inside)).encode()
                    (VENDOR / here).write_bytes(content)
                    entries.append(
                        {
                            "file": here,
                            "package": package.name,
                            "version": package.version,
                            "licence": package.licence,
                            "source": inside,
                            "sha256": digest(content),
                        }
                    )
    (VENDOR / "licences.txt").write_text(f"\n{'-' * 80}\n\n".join(licences), encoding="utf-8")
    MANIFEST.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def differences() -> list[str]:
    """Files that are not what the manifest says."""
    entries = json.loads(MANIFEST.read_text("utf-8"))
    return [one["file"] for one in entries if digest((VENDOR / one["file"]).read_bytes()) != one["sha256"]]


def main() -> int:
    if sys.argv[1:] not in ([], ["--check"]):
        sys.stderr.write("usage: vendor_page.py [--check]\n")
        return 2
    if not sys.argv[1:]:
        renew()
    wrong = differences()
    sys.stdout.write(f"not as in the manifest: {', '.join(wrong)}\n" if wrong else "all as in the manifest\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
