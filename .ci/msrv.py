"""The declared rust-version is true: no dependency, at the locked version, declares a later one."""

import json
import subprocess
import sys


def version(text: str) -> tuple[int, ...]:
    parts = [int(part) for part in text.split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--locked", "--all-features", "--format-version=1"]))
members = set(metadata["workspace_members"])
ours = {package["rust_version"] for package in metadata["packages"] if package["id"] in members}
if len(ours) != 1 or None in ours:
    sys.exit(f"the workspace declares more than one rust-version, or none: {ours}")
(declared,) = ours
later = [
    f"{package['name']} {package['version']} needs Rust {package['rust_version']}"
    for package in metadata["packages"]
    if package["rust_version"] and version(package["rust_version"]) > version(declared)
]
if later:
    sys.exit(f"rust-version = {declared} is not true:\n  " + "\n  ".join(later))
print(f"rust-version {declared}: no dependency of {len(metadata['packages'])} packages declares a later one")
