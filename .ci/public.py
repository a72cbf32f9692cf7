#!/usr/bin/env python3
"""The public items of each library crate, listed in crates/*/public-items.txt: .ci/public.py [--write]

Without --write it fails when a list is not what the crate has. The lists hold names, not signatures: a review sees what becomes
public, and what is gone. rustdoc's JSON is not stable yet, so RUSTC_BOOTSTRAP lets the stable compiler write it.
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = sorted(path.parent.parent for path in ROOT.glob("crates/*/src/lib.rs") if path.parent.parent.name != "bench-support")
LIST = "public-items.txt"


def rustdoc():
    """Documents every library as JSON, with the features and the artefacts of the step `doc` of .ci/run."""
    with tempfile.TemporaryDirectory() as scratch:
        # for rustdoc alone: some build scripts ask for RUSTC_BOOTSTRAP, and half of the dependencies would be built anew
        wrapper = pathlib.Path(scratch) / "rustdoc"
        wrapper.write_text('#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n')
        wrapper.chmod(0o755)
        flags = "-Z unstable-options --output-format json --cap-lints allow"
        environment = {**os.environ, "RUSTDOC": str(wrapper), "RUSTDOCFLAGS": flags}
        command = ["cargo", "doc", "--quiet", "--workspace", "--lib", "--no-deps", "--all-features"]
        subprocess.run(command, cwd=ROOT, check=True, env=environment)


def documented(package):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return json.loads((target / "doc" / f"{package.replace('-', '_')}.json").read_text())


def items(crate):
    index = crate["index"]
    found = set()

    def look_up(ids):
        return (index[str(id)] for id in ids if str(id) in index)

    def visit(item, path):
        (kind, inner), = item["inner"].items()
        if kind == "use":
            target = index.get(str(inner["id"]))
            if inner["is_glob"] and target:
                for child in look_up(target["inner"].get("module", target["inner"].get("enum", {})).get("items", [])):
                    visit(child, path)
            elif target:
                visit({**target, "name": inner["name"]}, path)
            else:
                found.add(f"{path}::{inner['name']} = {inner['source']}")
            return
        path = f"{path}::{item['name']}" if path else item["name"]
        if kind == "module":
            for child in look_up(inner["items"]):
                visit(child, path)
            return
        found.add(f"{path} ({kind.replace('_', ' ')})")
        members = list(inner.get("variants", []))
        if kind == "trait":
            members += inner["items"]
        if kind == "struct" and isinstance(inner["kind"], dict):
            members += inner["kind"].get("plain", {}).get("fields", [])
        for implementation in look_up(inner.get("impls", [])):
            if implementation["inner"]["impl"]["trait"] is None:
                members += implementation["inner"]["impl"]["items"]
        for member in look_up(members):
            if kind == "trait" or member["visibility"] in ("public", "default"):
                found.add(f"{path}::{member['name']}")

    visit(index[str(crate["root"])], "")
    return sorted(found)


def main():
    passed, failed = 0, 0
    rustdoc()
    for library in LIBRARIES:
        package = next(line.split('"')[1] for line in (library / "Cargo.toml").read_text().splitlines() if line.startswith("name ="))
        now = items(documented(package))
        listed = library / LIST
        if "--write" in sys.argv[1:]:
            listed.write_text("\n".join(now) + "\n")
            continue
        before = listed.read_text().splitlines() if listed.exists() else []
        if now == before:
            passed += 1
            continue
        failed += 1
        print(f"{package}: the public items have changed; .ci/public.py --write lists them anew")
        print("\n".join(difflib.unified_diff(before, now, "listed", "now", lineterm="", n=0)))
    print(f"{passed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
