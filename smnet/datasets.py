"""The data sets that download.py fetches: where they are, their licences, and their files."""

import csv
import dataclasses
import hashlib
from collections import defaultdict
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from utils import SMNetError

CATALOGUE = Path(__file__).with_name("datasets.csv")  # set, path in its repository, bytes, SHA-256


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set is."""

    repository: str  # owner/name
    commit: str
    folder: str  # in the repository; what is in it goes to data/<name>/
    purpose: str
    licence: str


SMNET = ("Muccul/SMNet", "bf891e704cb3d10333ef0565dc365c0d83406c5f")
BSDS = ("BIDS/BSDS500", "a04b7c6c3a9f0ace74bf205c72a43d32e1c72722")
POLYU = (
    "csjunxu/PolyU-Real-World-Noisy-Images-Dataset",
    "3af0f2646b267a00446fe4b7113a15e67bc80b4e",
)
CC = ("csjunxu/MCWNNM-ICCV2017", "e6db69b01ff21e89461cc49893c89afb1a9a941c")
UNSPLASH = ("SqueezeSoftware/test_files", "ba32ed75f9788f6004d749bdf6d725975e6dd98c")
RESEARCH = "research and education"
SETS = {
    "Set12": Source(*SMNET, "data/Set12", "test, gray", "none stated"),
    "Set68": Source(*SMNET, "data/Set68", "test and validation, gray (BSD68)", RESEARCH),
    "CBSD68": Source(*SMNET, "data/CBSD68", "test and validation, RGB", RESEARCH),
    "Kodak24": Source(
        *SMNET, "data/Kodak24", "test, RGB (500x500 crops)", "unrestricted, by common report"
    ),
    "McMaster": Source(*SMNET, "data/McMaster", "test, RGB", "research"),
    # Its val part holds all pictures of Set68 and CBSD68, and is left out for that.
    "BSDS500": Source(*BSDS, "BSDS500/data/images", "training: its train and test parts", RESEARCH),
    "PolyU": Source(*POLYU, "CroppedImages", "real noise, 100 pairs", "non-commercial"),
    "PolyU_full": Source(
        *POLYU, "OriginalImages", "real noise, 35 pairs of full frames", "non-commercial"
    ),
    "CC": Source(*CC, "Real_ccnoise_denoised_part", "real noise, test, 15 pairs", "non-commercial"),
    "Unsplash": Source(
        *UNSPLASH,
        "Unsplash/jpg_original",
        "training: 30 large, clean photographs (--shrink)",
        "Unsplash licence",
    ),
}


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a set."""

    address: str  # below the mirror's, percent-encoded
    target: Path
    size: int  # bytes
    sha256: str

    def is_there(self) -> bool:
        """Whether the target is the file, to the bit."""
        try:
            return (
                self.target.stat().st_size == self.size
                and hashlib.sha256(self.target.read_bytes()).hexdigest() == self.sha256
            )
        except OSError:
            return False


def read_catalogue() -> dict[str, list[dict]]:
    """The rows of datasets.csv by set."""
    rows = defaultdict(list)
    with open(CATALOGUE, newline="") as file:
        for row in csv.DictReader(file):
            rows[row["set"]].append(row)
    return rows


def files_of(name: str, data_dir: str | Path) -> list[File]:
    """The files of a set.

    Raises:
        SMNetError: a path in the catalogue would lead out of the set's folder.
    """
    source, files = SETS[name], []
    for row in read_catalogue()[name]:
        path = PurePosixPath(row["path_in_repository"])
        if (
            ".." in path.parts
            or "\\" in str(path)
            or ":" in str(path)
            or not path.is_relative_to(source.folder)
        ):
            raise SMNetError(
                f"{CATALOGUE.name}: {path} is not a path below {source.folder}; nothing was fetched"
            )
        address = quote(f"{source.repository}/{source.commit}/{path}")
        target = Path(data_dir) / name / path.relative_to(source.folder)
        files.append(File(address, target, int(row["bytes"]), row["sha256"]))
    return files
