"""Turn folders of pictures into the two h5 files that the gray train scripts read; colour becomes
OpenCV's luma.

    python dataset_gray.py                                             # data/pristine_images_gray, data/Set68
    python dataset_gray.py --train_dir photos more_photos --holdout 20 # 20 of them set aside for validation
    python dataset_gray.py --train_dir waterloo --resize 256           # the authors' way: whole pictures squeezed to 256x256

Where data/pristine_images_gray is missing and no --train_dir is given, photographs that come with
scikit-image are used: enough to run everything, too few to train a good network. How the files are
    made is in dataset.py.
"""

import dataset
from smnet.cli import run_script

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    train_dir=["data/pristine_images_gray"],  # folders of training pictures, searched recursively
    val_dir="data/Set68",  # folder of validation pictures
    train_h5="train_gray_data.h5",  # file to write: training patches
    val_h5="val_gray_data.h5",  # file to write: validation pictures
    patch_size=256,  # pixels, side of a stored patch
    stride=256,  # pixels from one patch to the next; the last in a row or column moves inward
    resize=0,  # pixels; above 0 every training picture is first squeezed to this square (the authors': 256)
    holdout=0,  # training pictures, evenly spread, that are set aside for validation in place of val_dir; pairs: by scene
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    return dataset.build(argv, description=__doc__, defaults=DEFAULTS, channels=1)


if __name__ == "__main__":
    run_script(main)
