# What real clients make of each form of heartbeat, in the dialect that each reads: the table in crates/heartbeat/README.md.
# debian: chromium
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent.parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE / "heartbeats"))

import clients
import server
from check import equal
from readers import crates, node, rust, seen_by

README = ROOT / "crates/heartbeat/README.md"
START, END = "<!-- clients: start -->\n", "<!-- clients: end -->\n"


def verdict(got: list[str]) -> str:
    delivered, error = list(got), ""
    if got and got[-1].startswith("error: "):
        error = delivered.pop()
    ours = [text for text in delivered if text in server.TEXTS]
    if error:
        return error
    if ours != server.TEXTS:
        return "events lost" if ours != server.TEXTS[: len(ours)] or not ours else "stream ended"
    return "whole" if ours == delivered else "seen as events"


address = server.serve()
targets = server.targets(address)
urls = [url for _, _, url in targets]
readers = [node(*urls), rust(*urls)]
found = clients.read_all(targets)
for others in (seen_by("node", readers[0]), crates(seen_by("Rust", readers[1]))):
    for name, seen in others.items():
        found[name] = {(form, ids): got for (form, ids, _), got in zip(targets, seen, strict=True)}

forms = list(server.FORMS)
rows = ["| client | " + " | ".join(forms) + " |", "|---" * (len(forms) + 1) + "|"]
for name in sorted(found, key=str.casefold):
    cells = []
    for form in forms:
        before, after = (verdict(found[name][form, ids]) for ids in ("no-ids", "ids"))
        cells.append(before if before == after else f"{before}; with ids: {after}")
    rows.append(f"| {name} | " + " | ".join(cells) + " |")
table = "\n".join(rows) + "\n"
print(table)

text = README.read_text()
before, rest = text.split(START)
shown, after = rest.split(END)
if os.environ.get("UPDATE"):
    README.write_text(before + START + table + END + after)
else:
    equal("the table in the README is what was seen", shown, table)

# what the layer writes by default is read by every client, in the dialect for which it is the default
for name, seen in found.items():
    if name.startswith("@google/genai"):
        equal(f"{name}: reads the default, without ids", verdict(seen["`comment()`", "no-ids"]), "whole")
        continue
    equal(f"{name}: reads the default, without ids", verdict(seen["`comment()`", "no-ids"]), "whole")
    equal(f"{name}: reads the default, with ids", verdict(seen["`comment_alone()`", "ids"]), "whole")
