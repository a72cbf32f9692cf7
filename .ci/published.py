"""Prints `-p NAME` for each crate that is published."""

import json
import subprocess

metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]))
for package in metadata["packages"]:
    # `publish = false` is an empty list of registries
    if package["publish"] != []:
        print("-p", package["name"])
