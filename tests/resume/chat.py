"""examples/resume: the server that produces a chat is killed, and the client gets every token once."""

import subprocess
import sys
import tempfile

from stores import STORES

CHAT, STORE = sys.argv[1:]
with tempfile.TemporaryDirectory() as scratch:
    store = STORES[STORE](scratch)
    try:
        sys.exit(subprocess.run([CHAT, f"--{STORE}", store.url], timeout=120).returncode)
    finally:
        store.kill()
