"""What test_*.py measured, written and read in one place, and the paper's figures."""

import csv
import functools
import io
import json
import math
from pathlib import Path

from smnet.evaluation import Score, averages


def read_runs(path: Path, problems: list[str]) -> list[dict]:
    """The runs in a file of test_*.py --json; what is wrong with it is added to `problems`."""
    try:
        runs = json.loads(path.read_text())
        for run in runs:
            _ = (
                run["mean"]["psnr"]["SMNet"],
                run["protocol"],
                run["set"],
                run["sigma"],
                run["mode"],
                run["width"],
                run["weights"],
                run["pictures"][0]["name"],
            )
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError, IndexError):
        problems.append(f"{path}: was not written by test_*.py --json")
    else:
        return runs
    return []


def read_log(path: Path, problems: list[str]) -> list[dict]:
    """The lines of a training log; what is wrong with it is added to `problems`."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        for line in lines:
            _ = line["step"] + line["val_psnr"] + line["train_psnr"] + line["seconds"]
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        problems.append(f"{path}: is no training log")
    else:
        return lines
    return []


PAPER_RESULTS = Path(__file__).parent / "paper_results.csv"


@functools.cache
def all_paper_results() -> dict[tuple[str, float], dict[str, float]]:
    """The paper's mean PSNR in dB by method, for each (test set, sigma in grey levels) that it
    has."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    with open(PAPER_RESULTS, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["set"], float(row["sigma"])), {})[row["method"]] = float(
                row["psnr_db"]
            )
    return found


def paper_results(test_set: str, sigma: float | None) -> dict[str, float]:
    """The paper's mean PSNR in dB by method, for a test set and a sigma in grey levels; empty where
    it has none."""
    return all_paper_results().get((test_set, sigma), {})


def as_json(score: Score) -> dict:
    """A score as JSON has it: what is no finite number (PSNR of equal pictures, SSIM of tiny ones)
    becomes null."""

    def finite(values: dict[str, float]) -> dict[str, float | None]:
        return {method: value if math.isfinite(value) else None for method, value in values.items()}

    return {
        "name": score.name,
        "psnr": finite(score.psnr),
        "ssim": finite(score.ssim),
        "seconds": score.seconds,
    }


def as_csv(reports: list[tuple[dict, list[Score]]]) -> str:
    """A row per set, sigma and picture, with PSNR and SSIM of every method."""
    methods = list(reports[0][1][0].psnr)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "set",
            "sigma",
            "weights",
            "protocol",
            "picture",
            *(f"{metric}_{m}" for m in methods for metric in ("psnr", "ssim")),
        ]
    )
    for report, scores in reports:
        for score in [*scores, averages(scores)]:
            figures = [f"{values[m]:.4f}" for m in methods for values in (score.psnr, score.ssim)]
            noise = "real" if report["sigma"] is None else f"{report['sigma']:g}"
            writer.writerow(
                [report["set"], noise, report["weights"], report["protocol"], score.name, *figures]
            )
    return text.getvalue()
