"""What a run's h5 files hold, in a few plain values: a training state keeps them, so that going on
with other data does not happen in silence."""

import hashlib
import json
import os

import h5py

from smnet.images import Picture

SAMPLED = 16  # patches, evenly spread, whose pixels are compared


def file_identity(file: h5py.File) -> tuple[int, int, int, int]:
    """What tells an open file from another that later has its name."""
    status = os.fstat(file.id.get_vfd_handle())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def describe_patches(file: h5py.File) -> dict:
    """Of a file of training patches: counts, the settings that it was made with, and a checksum of
    the pictures' names and of some patches."""
    patches, names = file["patches"], json.loads(file.attrs.get("sources", "[]"))
    sampled = sorted({i * len(patches) // SAMPLED for i in range(SAMPLED)})
    pixels = [
        file[key][i].tobytes() for key in ("patches", "noisy") if key in file for i in sampled
    ]
    made_with = {
        key: value if isinstance(value, str) else int(value)
        for key, value in file.attrs.items()
        if key in ("stride", "resize", "pairs")
    }
    return {
        "patches": len(patches),
        "pictures": len(names),
        "patch_size": patches.shape[2],
        **made_with,
        "checksum": checksum(*map(str, names), *pixels),
    }


def describe_together(descriptions: list[dict]) -> dict:
    """Of several files of training patches as one data set; of a single one, what it holds."""
    if len(descriptions) == 1:
        return descriptions[0]
    return {
        "files": len(descriptions),
        **{key: sum(d[key] for d in descriptions) for key in ("patches", "pictures")},
        "checksum": checksum(*(d["checksum"] for d in descriptions)),
    }


def describe_pictures(pictures: list[Picture]) -> dict:
    """Of validation pictures: how many, and a checksum of names and pixels."""
    parts: list[str | bytes] = []
    for name, clean, noisy in pictures:
        parts += [name, clean.tobytes(), b"" if noisy is None else noisy.tobytes()]
    return {"pictures": len(pictures), "checksum": checksum(*parts)}


def checksum(*parts: str | bytes) -> str:
    """The first eight hexadecimal digits of the parts' SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:8]


def in_words(description: dict) -> str:
    """A description as a message shows it: "12 patches, 3 pictures, patch_size 48, ..."."""
    counts = ("files", "patches", "pictures")
    return ", ".join(
        f"{value} {key}" if key in counts else f"{key} {value}"
        for key, value in description.items()
    )
