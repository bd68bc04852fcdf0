"""Run by the Python of the judge aics-tlog: BASE VKEY [OLD_NOTE].

Fetches the checkpoint below the address BASE, checks its signature, authenticates every hash tile against it, and that it continues the old
checkpoint. Prints the number of entries and tiles. Ends with 1 and the reason otherwise.
"""

import sys

from aics_tlog.checkpoint import verify_checkpoint
from aics_tlog.note import parse_note, parse_vkey
from aics_tlog.remote import HttpTileReader
from aics_tlog.tiles import consistency_proof_from_tiles
from aics_tlog.tree import verify_consistency
from aics_tlog.verified import VerifiedTileReader, audit_tiles


def main(base, vkey, *old):
    reader = HttpTileReader(base, proxies={})
    key = parse_vkey(vkey)
    head = verify_checkpoint(parse_note(reader.read_checkpoint()), key)
    if not head.ok:
        sys.exit(f"checkpoint: {head.error}")
    report = audit_tiles(reader, head.size, head.root, entries=False)
    for path in old:
        with open(path, "rb") as file:
            before = verify_checkpoint(parse_note(file.read()), key)
        tiles = VerifiedTileReader(reader, head.size, head.root)
        if not before.ok or before.size > head.size:
            sys.exit(f"old checkpoint: {before.error or 'it is of more entries'}")
        proof = consistency_proof_from_tiles(tiles, before.size, head.size) if before.size < head.size else []
        if not verify_consistency(before.size, head.size, before.root, head.root, proof):
            sys.exit("the log does not continue the old checkpoint")
    sys.stdout.write(f"{head.size} {report.tiles}\n")


main(*sys.argv[1:])
