"""Lay out the pictures that pretrained/rgb_R.pth and gray_R.pth were trained on, for dataset.py.

    python download.py PolyU PolyU_full BSDS500 Unsplash
    python -m docs.recipes.real_noise                      # data/ -> data/real_noise/
    cd data/real_noise
    python ../../dataset.py --train_dir pairs --val_dir val_pairs --pairs "*_real*" "*_mean*"
    python ../../dataset.py --train_dir photos --val_dir val_photos --train_h5 photos.h5

docs/training.md has the commands for the other files.

Writes six folders. No scene of val_pairs or val_frames is in pairs or photos, in crops or in full
frames:

- pairs: PolyU's crops, but for 20 of six scenes; 22 of PolyU_full's frames, each as its camera
  wrote it and saved again as PolyU's crops were (JPEG of quality 75, 4:2:0);
- val_pairs: those 20 crops;
- val_frames: two parts of 512x512 of each of eight frames of held-out scenes, as their cameras
  wrote them;
- photos: BSDS500 but for 20 pictures; the clean sides of the 22 frames, and Unsplash but for six
  pictures of saturated colours, both shrunk by 3;
- val_photos, val_saturated: those 20, and the middle of those six.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from smnet.cli import make_parser, run_script
from smnet.dataset_building import hold_out_pictures, training_files
from smnet.images import find_pictures, read_picture, to_float, write_picture
from smnet.pairs import find_pairs, hold_out
from smnet.patches import shrink_by
from utils import SMNetError, make_folder

SHRINK = 3  # pixels a side that become one
MIDDLE = 512  # pixels, side of the parts of large pictures that are measured

# Subjects of PolyU_full that scenes held out of PolyU show too, by whatever camera.
HELD_OUT = ("bicyc", "desk", "desch", "print", "class", "stair", "waterhouse")
DOUBTFUL = (  # the two sides do not fit each other
    "SonyA7II_compu", "Canon5D2_plug", "Canon5D2_robot", "Nikon800_desk", "SonyA7II_book",
)  # fmt: skip
SATURATED = ("bruna-", "fatih-", "karly-", "malena-", "urel-", "zach-")  # of Unsplash


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0."""
    args = parse_args(argv)
    data, output = Path(args.data_dir), Path(args.output or Path(args.data_dir, "real_noise"))
    for name in ("PolyU", "PolyU_full", "BSDS500", "Unsplash"):
        if not (data / name).is_dir():
            raise SMNetError(f"{data / name} is missing; get it: python download.py {name}")
    if output.exists():
        raise SMNetError(f"{output} is there already; remove it, or give another --output")
    unfinished = make_folder(output.with_name(f"{output.name}.unfinished"))
    for name in ("pairs", "val_pairs", "val_frames", "photos", "val_photos", "val_saturated"):
        make_folder(unfinished / name)
    lay_out_crops(data / "PolyU", unfinished)
    lay_out_frames(data / "PolyU_full", unfinished)
    lay_out_bsds(data / "BSDS500", unfinished)
    lay_out_unsplash(data / "Unsplash", unfinished)
    unfinished.rename(output)
    for folder in sorted(output.iterdir()):
        print(f"{folder}: {len(list(folder.iterdir()))} files")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    text = "folder that download.py filled (default: %(default)s)"
    parser.add_argument("--data_dir", default="data", metavar="DIR", help=text)
    text = "folder to write to (default: real_noise in it)"
    parser.add_argument("-o", "--output", metavar="DIR", help=text)
    return parser.parse_args(argv)


def lay_out_crops(folder: Path, output: Path) -> None:
    """PolyU: crops to train on, and crops of other scenes to validate on."""
    train, val = hold_out(find_pairs([folder], "*_real*", "*_mean*")[0], 20)
    for pair in train:
        for side, path in (("real", pair.noisy), ("mean", pair.clean)):
            shutil.copy(path, output / "pairs" / f"crop_{pair.name}_{side}.jpg")
    for pair in val:
        for path in (pair.noisy, pair.clean):
            shutil.copy(path, output / "val_pairs" / path.name)


def is_held_out(frame: str) -> bool:
    """Whether a frame of PolyU_full shows a scene that is not trained on."""
    return any(subject in frame for subject in HELD_OUT)


def lay_out_frames(folder: Path, output: Path) -> None:
    """PolyU_full: every frame twice, and its clean side as a photograph; of those of held-out
    scenes two parts."""
    for pair in find_pairs([folder], "*_Real*", "*_mean*")[0]:
        name, noisy, clean = pair.name, pair.noisy, pair.clean
        if name in DOUBTFUL:
            continue
        if is_held_out(name):
            for side, path in (("real", noisy), ("mean", clean)):
                write_parts(path, output / "val_frames", f"{name}_{{part}}_{side}.png")
            continue
        for kind in ("full", "again"):
            shutil.copy(clean, output / "pairs" / f"{kind}_{name}_mean.jpg")
        shutil.copy(noisy, output / "pairs" / f"full_{name}_real.jpg")
        again = output / "pairs" / f"again_{name}_real.jpg"
        with Image.open(noisy) as picture:
            picture.convert("RGB").save(again, quality=75, subsampling=2)
        shrink(clean, output / "photos" / f"polyu_{name}.png")


def write_parts(source: Path, folder: Path, name: str) -> None:
    """Write the middles of a picture's left and right half, as parts 1 and 2."""
    picture = read_picture(source, 3)
    for part, share in ((1, 1 / 4), (2, 3 / 4)):
        piece = cut_part(picture, int(share * picture.shape[2]))
        write_picture(folder / name.format(part=part), to_float(piece))


def lay_out_bsds(folder: Path, output: Path) -> None:
    """BSDS500's train and test parts, which have no picture of Set68 or CBSD68."""
    train, val = hold_out_pictures(training_files([str(folder)]), 20)
    for kind, pictures in (("photos", train), ("val_photos", val)):
        for picture in pictures:
            path = Path(str(picture.clean))
            part, name = path.parts[-2:]
            shutil.copy(path, output / kind / f"bsds_{part}_{name}")


def lay_out_unsplash(folder: Path, output: Path) -> None:
    """Unsplash, shrunk: its large pictures have noise and JPEG artefacts."""
    for path in find_pictures(folder):
        held_out = path.name.startswith(SATURATED)
        kind = "val_saturated" if held_out else "photos"
        target = output / kind / f"unsplash_{path.stem}.png"
        shrink(path, target, middle=held_out)


def shrink(source: Path, target: Path, *, middle: bool = False) -> None:
    """Write a picture shrunk by `SHRINK`, or the middle of that."""
    picture = shrink_by(read_picture(source, 3), SHRINK)
    if middle:
        picture = cut_part(picture, picture.shape[2] // 2)
    write_picture(target, to_float(picture))


def cut_part(picture: np.ndarray, column: int) -> np.ndarray:
    """(C, H, W) -> the part of `MIDDLE` pixels a side around this column, halfway down."""
    top, left = max(0, (picture.shape[1] - MIDDLE) // 2), max(0, column - MIDDLE // 2)
    return picture[:, top : top + MIDDLE, left : left + MIDDLE]


if __name__ == "__main__":
    run_script(main)
