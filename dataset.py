"""Turn folders of pictures into the two h5 files that the RGB train scripts read.

    python dataset.py                                    # data/pristine_images_color, data/CBSD68
    python dataset.py --train_dir photos more_photos --holdout 20    # 20 set aside to validate on
    python dataset.py --train_dir data/Unsplash --shrink 3           # clean, from large photographs
    python dataset.py --train_dir waterloo --resize 256  # the authors' way: squeezed to 256x256
    python dataset.py --train_dir data/PolyU --pairs "*_real*" "*_mean*"     # train_pairs.h5

train_data.h5 holds uint8 patches that together cover every picture; crops, orientations and noise
are drawn when they are read. val_data.h5 holds whole pictures. Where data/pristine_images_color is
missing and no --train_dir is given, photographs that come with scikit-image are used: enough to run
everything, too few to train a good network. docs/data.md says more.
"""

from smnet.cli import run_script
from smnet.dataset_building import build

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    train_dir=["data/pristine_images_color"],  # folders of training pictures, searched recursively
    val_dir="data/CBSD68",  # folder of validation pictures
    train_h5="train_data.h5",  # file to write: training patches
    val_h5="val_data.h5",  # file to write: validation pictures
    patch_size=256,  # pixels, side of a stored patch
    # pixels from one patch to the next, None: the patch size; the last in a row or column moves
    # inward
    stride=None,
    resize=0,  # pixels; above 0 training pictures are squeezed to this square (the authors': 256)
    shrink=1,  # above 1 squares of that many pixels a side are averaged before pictures are cut
    holdout=0,  # training pictures set aside to validate on, in place of val_dir; pairs: by scene
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    return build(argv, description=__doc__, defaults=DEFAULTS, channels=3)


if __name__ == "__main__":
    run_script(main)
