"""Compares a recovery point with its source by Azure's own client. Knows nothing of site-recovery but replica.json.

judge.py source                            standard input: the disk's content; standard output: its digests
judge.py point ENDPOINT ACCOUNT REPLICA TIME DISK=DIGESTS...   the point of that barrier against them; prints JSON
"""

import hashlib
import json
import os
import sys
from datetime import datetime

PIECE = 1 << 20
ZEROES = bytes(PIECE)


def digests_of(pieces):
    """The digest of each piece that is not zero, by its number."""
    return {
        str(number): hashlib.blake2b(piece, digest_size=16).hexdigest()
        for number, piece in pieces
        if piece != ZEROES[: len(piece)]
    }


def pieces_of(stream):
    number = 0
    while piece := stream.read(PIECE):
        yield number, piece
        number += 1


def source():
    counted = 0

    def counting():
        nonlocal counted
        for number, piece in pieces_of(sys.stdin.buffer):
            counted += len(piece)
            yield number, piece

    found = digests_of(counting())
    json.dump({"size": counted, "digests": found}, sys.stdout)


def written(blob, size):
    """The numbers of the pieces below `size` in which a page was written."""
    numbers = set()
    for page in blob.list_page_ranges():
        if page.cleared or page.start >= size:
            continue
        last = min(page.end, size - 1)
        numbers.update(range(page.start // PIECE, last // PIECE + 1))
    return sorted(numbers)


def downloaded(blob, size):
    for number in written(blob, size):
        start = number * PIECE
        length = min(PIECE, size - start)
        yield number, blob.download_blob(offset=start, length=length).readall()


def instant(text):
    """Nanoseconds are more than a datetime holds; microseconds tell barriers apart."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole), rest[:6].ljust(6, "0")


def point(endpoint, account, replica, time, disks):
    from azure.storage.blob import BlobServiceClient

    key = {"account_name": account, "account_key": os.environ["ACCOUNT_KEY"]}
    service = BlobServiceClient(endpoint, credential=key)
    names = [c.name for c in service.list_containers() if c.name.endswith("-r-" + replica)]
    [container] = map(service.get_container_client, names)
    manifest = json.loads(container.download_blob("replica.json").readall())
    [found] = [p for p in manifest["points"] if instant(p["barrier"]["time"]) == instant(time)]
    results = {}
    for disk, path in disks:
        with open(path) as file:
            expected = json.load(file)
        snapshot = found["disks"][disk]["snapshot"]
        blob = container.get_blob_client(f"disks/{disk}.vhd", snapshot=snapshot)
        actual = digests_of(downloaded(blob, expected["size"]))
        numbers = actual.keys() | expected["digests"].keys()
        wrong = [int(n) * PIECE for n in numbers if actual.get(n) != expected["digests"].get(n)]
        results[disk] = {"bytes": len(actual) * PIECE, "wrong": sorted(wrong)[:10]}
    json.dump({"point": found["id"], "disks": results}, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "source":
        source()
    else:
        point(*sys.argv[2:6], [text.split("=", 1) for text in sys.argv[6:]])
