"""What a user of the published crates compiles has a licence of this list: .ci/licences.py -p NAME...

`cargo deny check licenses` says the same, but is not installed everywhere. Advisories are checked by .github/workflows/ci.yml: their
database is not in a registry.
"""

import re
import subprocess
import sys

ALLOWED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "Unicode-3.0", "Unlicense", "Zlib"}


def allowed(expression):
    """Whether an SPDX expression of OR, AND, WITH and parentheses allows the use."""
    expression = re.sub(r" WITH [\w.-]+", "", expression.replace("/", " OR "))
    words = re.findall(r"[\w.+-]+|[()]", expression)
    python = [str(word in ALLOWED) if word not in {"AND", "OR", "(", ")"} else word.lower() for word in words]
    return eval(" ".join(python))  # noqa: S307  (True, False, and, or and parentheses)


tree = ["cargo", "tree", "--locked", "--all-features", "--edges=normal,build", "--prefix=none", "--format={p}\t{l}", *sys.argv[1:]]
lines = subprocess.check_output(tree, text=True).splitlines()
packages = {tuple(line.removesuffix(" (*)").split("\t")) for line in lines if line}
others = sorted(f"{name}: {licence or 'none'}" for name, licence in packages if not allowed(licence or "none"))
if others:
    sys.exit("licences that are not in .ci/licences.py:\n  " + "\n  ".join(others))
print(f"{len(packages)} packages have an allowed licence")
