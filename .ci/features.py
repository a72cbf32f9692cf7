"""Prints a line for each build in which at most one feature is on: `PACKAGE FEATURE`, or `PACKAGE` for none."""

import json
import subprocess

metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]))
for package in metadata["packages"]:
    if package["features"]:
        print(package["name"])
    for feature in sorted(package["features"].keys() - {"default"}):
        print(package["name"], feature)
