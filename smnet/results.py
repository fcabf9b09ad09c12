"""What test_*.py measured, written and read in one place; training logs; the paper's figures."""

import csv
import dataclasses
import functools
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from smnet.evaluation import Score, averages
from utils import SMNetError, one_line, replacing

PAPER_RESULTS = Path(__file__).parent / "paper_results.csv"
# The pictures of the paper's test sets.
PAPER_PICTURES = {"Set12": 12, "Set68": 68, "CBSD68": 68, "Kodak24": 24, "McMaster": 18}
GRAY_SETS = ("Set12", "Set68")  # of the paper's test sets; it tests the others in RGB


@dataclasses.dataclass(frozen=True)
class Run:
    """One network on one test set at one noise level."""

    set: str
    sigma: float | None  # grey levels; None: real noise
    mode: str  # S: a network of one noise level, B: blind, R: real noise
    weights: str  # the file
    epoch: int | None
    width: int
    shuffle: int  # side of the squares of pixels that are folded into channels; 1: none are
    noise_range: tuple[float, float] | None  # sigmas of the training; None: real or not stated
    protocol: str  # what was done differently from the authors
    scores: Sequence[Score]  # one a picture
    saved: str | None = None  # folder of the pictures

    @property
    def mean(self) -> Score:
        """The mean over the pictures."""
        return averages(self.scores)

    @property
    def network(self) -> str:
        """The network's size: "width 16", or "width 32 folded"."""
        return network_name(self.width, self.shuffle)

    @property
    def paper(self) -> dict[str, float]:
        """The paper's mean PSNR in dB by method, where the protocol is the authors'."""
        return {} if self.protocol else paper_results(self.set, self.sigma)

    def to_json(self) -> dict:
        """The run as JSON has it, with its mean and the paper's figures."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        scores = fields.pop("scores")
        if self.saved is None:
            del fields["saved"]
        return {
            **fields,
            "paper": self.paper,
            "mean": score_to_json(self.mean),
            "pictures": [score_to_json(score) for score in scores],
        }

    @classmethod
    def from_json(cls, content: dict) -> "Run":
        """The run that `to_json` wrote, here or in an earlier version, which knew no shuffle.

        Raises:
            KeyError, TypeError, ValueError: the content is of something else.
        """
        if not isinstance(content["set"], str) or not content["pictures"]:
            raise ValueError("no run of test_*.py")
        noise_range = content.get("noise_range")
        return cls(
            set=content["set"],
            sigma=None if content["sigma"] is None else float(content["sigma"]),
            mode=str(content["mode"]),
            weights=str(content["weights"]),
            epoch=content.get("epoch"),
            width=int(content["width"]),
            shuffle=int(content.get("shuffle", 1)),
            noise_range=noise_range and tuple(noise_range),
            protocol=str(content["protocol"]),
            scores=[score_from_json(picture) for picture in content["pictures"]],
            saved=content.get("saved"),
        )


def network_name(width: int, shuffle: int) -> str:
    """A network's size: "width 16", with 2x2 pixels folded into channels "width 32 folded"."""
    folding = {1: "", 2: " folded"}.get(shuffle, f" folded {shuffle}x{shuffle}")
    return f"width {width}{folding}"


def score_to_json(score: Score) -> dict:
    """A score as JSON has it: null stands for the PSNR of equal pictures and the SSIM of pictures
    that are too small for one."""
    finite = {
        metric: {method: v if math.isfinite(v) else None for method, v in values.items()}
        for metric, values in (("psnr", score.psnr), ("ssim", score.ssim))
    }
    return {"name": score.name, **finite, "seconds": score.seconds}


def score_from_json(content: dict) -> Score:
    """What `score_to_json` wrote, as a score."""
    psnr, ssim = (
        {method: null if v is None else float(v) for method, v in content[metric].items()}
        for metric, null in (("psnr", math.inf), ("ssim", math.nan))
    )
    if "SMNet" not in psnr.keys() & ssim.keys():
        raise ValueError("no figures of SMNet")
    return Score(str(content["name"]), psnr=psnr, ssim=ssim, seconds=float(content["seconds"]))


# ------------------------------------------------------------------------------------ files of runs


def write_runs(path: str | Path, runs: Iterable[Run]) -> None:
    """Write runs as JSON."""
    content = [run.to_json() for run in runs]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_runs(path: str | Path) -> list[Run]:
    """The runs in a file of test_*.py --json.

    Raises:
        SMNetError: it cannot be read, or is something else.
    """
    try:
        content = json.loads(Path(path).read_text())
        if not isinstance(content, list):
            raise ValueError("no list of runs")
        return [Run.from_json(run) for run in content]
    except OSError as error:
        raise SMNetError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SMNetError(f"{path}: was not written by test_*.py --json") from None


def write_csv(path: str | Path, runs: Sequence[Run]) -> None:
    """Write a row per run and picture, and one with the run's means, with PSNR and SSIM of every
    method; empty where JSON has null. Bytes in names that are no UTF-8 are escaped."""
    methods = list(runs[0].scores[0].psnr)
    columns = [f"{metric}_{method}" for method in methods for metric in ("psnr", "ssim")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "sigma", "weights", "protocol", "picture", *columns])
    for run in runs:
        noise = "real" if run.sigma is None else f"{run.sigma:g}"
        for score in [*run.scores, run.mean]:
            figures = (values[m] for m in methods for values in (score.psnr, score.ssim))
            cells = (f"{value:.4f}" if math.isfinite(value) else "" for value in figures)
            names = map(one_line, (run.set, noise, run.weights, run.protocol, score.name))
            writer.writerow([*names, *cells])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_log(path: str | Path) -> list[dict]:
    """The lines of a training log.

    Raises:
        SMNetError: it cannot be read, or is something else.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
        for line in lines:
            _ = line["step"] + line["val_psnr"] + line["train_psnr"] + line["seconds"]
    except OSError as error:
        raise SMNetError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise SMNetError(f"{path}: is not a training log") from None
    return lines


# ------------------------------------------------------------------------------ the paper's figures


@functools.cache
def all_paper_results() -> dict[tuple[str, float], dict[str, float]]:
    """The paper's mean PSNR in dB by method, for each (test set, sigma in grey levels) in its
    tables."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    with open(PAPER_RESULTS, newline="") as file:
        for row in csv.DictReader(file):
            figures = found.setdefault((row["set"], float(row["sigma"])), {})
            figures[row["method"]] = float(row["psnr_db"])
    return found


def paper_results(test_set: str, sigma: float | None) -> dict[str, float]:
    """The paper's mean PSNR in dB by method, for a test set and a sigma in grey levels; empty where
    it has none."""
    return all_paper_results().get((test_set, sigma), {})


def paper_channels(test_set: str) -> int | None:
    """The channels that the paper tests a set in; None where it does not."""
    if test_set in GRAY_SETS:
        return 1
    return 3 if any(name == test_set for name, _ in all_paper_results()) else None
