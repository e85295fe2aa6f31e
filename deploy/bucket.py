"""The bucket of artifacts: made, saved to a folder, and loaded back; and that folder, freed of what no list names any more.

A saved bucket is a list, `bucket.json`, of its objects at that moment, and their bytes by sha256 in a folder that all backups
share: what has not changed is neither fetched nor stored twice, and what was deleted since is still there for older lists.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

_PIECE_BYTES = 1 << 20


def create(s3: Any, bucket: str) -> None:
    """Makes the bucket, if it is not there."""
    if bucket not in [one["Name"] for one in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket)
    print(f"bucket {bucket} is ready")


def save(s3: Any, bucket: str, objects: Path, listing: Path, earlier: Path | None) -> None:
    """Fetches what `objects` lacks, and writes the list last."""
    objects.mkdir(parents=True, exist_ok=True)
    known = {one["etag"]: one for one in _read(earlier)} if earlier else {}
    saved = []
    for found in _objects(s3, bucket):
        before = known.get(found["ETag"])
        if before and before["size"] == found["Size"] and (objects / before["sha256"]).is_file():
            digest = before["sha256"]
        else:
            digest = _fetch(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"], objects)
        saved.append({"key": found["Key"], "size": found["Size"], "etag": found["ETag"], "sha256": digest})
    temporary = listing.with_suffix(".partial")
    temporary.write_text(json.dumps(saved, indent=0), encoding="utf-8")
    temporary.replace(listing)
    print(f"bucket {bucket}: {len(saved)} objects, {sum(one['size'] for one in saved):,} bytes")


def load(s3: Any, bucket: str, objects: Path, listing: Path) -> None:
    """Puts every object of the list back, after checking its bytes. Others in the bucket stay."""
    there = {found["Key"]: found["ETag"] for found in _objects(s3, bucket)}
    saved = _read(listing)
    for one in saved:
        if there.get(one["key"]) == one["etag"]:
            continue
        with (objects / one["sha256"]).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != one["sha256"]:
                raise ValueError(
                    f"{file.name}: is damaged; restore an earlier backup, or this file from another copy"
                )
        s3.upload_file(str(objects / one["sha256"]), bucket, one["key"])
    print(f"bucket {bucket}: {len(saved)} objects are back")


def prune(objects: Path, backups: Path) -> None:
    """Removes from `objects` what no list below `backups` names, and what killed fetches have left."""
    needed = {one["sha256"] for listing in backups.glob("*/bucket.json") for one in _read(listing)}
    removed = [path for path in objects.iterdir() if path.name not in needed]
    freed = sum(path.stat().st_size for path in removed)
    for path in removed:
        path.unlink()
    print(f"{len(removed)} objects of earlier backups removed, {freed:,} bytes")


def _objects(s3: Any, bucket: str) -> Iterator[dict[str, Any]]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        yield from page.get("Contents", [])


def _fetch(body: Any, objects: Path) -> str:
    """Stores what comes under its sha256, which has its name only when it is whole."""
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=objects, prefix=".partial-", delete=False) as file:
        for piece in body.iter_chunks(_PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(objects / digest.hexdigest())
    return digest.hexdigest()


def _read(listing: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(listing.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """The command line: one clear line and exit 1 for what is wrong with the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["create", "save", "load", "prune"])
    parser.add_argument("bucket")
    parser.add_argument("--objects", type=Path, help="the folder of bytes by sha256")
    parser.add_argument("--list", type=Path, help="bucket.json of this backup")
    parser.add_argument("--earlier", type=Path, help="bucket.json of the backup before")
    parser.add_argument("--backups", type=Path, help="the folder of all backups")
    asked = parser.parse_args()
    try:
        match asked.action:
            case "create":
                create(boto3.client("s3"), asked.bucket)
            case "save":
                save(boto3.client("s3"), asked.bucket, asked.objects, asked.list, asked.earlier)
            case "load":
                load(boto3.client("s3"), asked.bucket, asked.objects, asked.list)
            case "prune":
                prune(asked.objects, asked.backups)
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        sys.exit(f"error: bucket {asked.bucket}: {error}")


if __name__ == "__main__":
    main()
