"""Test SMNet on RGB pictures: PSNR and SSIM under the authors' noise, beside the paper's numbers.

    python test_rgb.py --mode S --test_data CBSD68        # weights/model_rgb_L25_N.pth, highest N
    python test_rgb.py -checkpoint 40 --mode S --test_noiseL 15 --test_data McMaster
    python test_rgb.py --mode B --test_data all --test_noiseL all --json results.json
    python test_rgb.py --weights FILE --test_data sample my_pictures --baseline --save_dir out
    python test_rgb.py --mode R --test_data val_pairs.h5 CC         # pairs of real noise

The noise is the authors': three draws a picture from a CPU generator seeded 12, PSNR averaged, not
clipped, not rounded. The output is clamped to [0, 1]. docs/testing.md says more; the command is in
smnet/testing.py, the loop in smnet/evaluation.py.
"""

from smnet import testing
from smnet.cli import run_script

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    test_data=["CBSD68"],  # names of folders in data_dir, any folders of pictures, or "sample"
    all_data=["CBSD68", "Kodak24", "McMaster"],  # what --test_data all stands for
    real_data=["CC"],  # what --mode R tests where no --test_data is given
    test_noiseL=[25],  # grey levels 0-255
    all_noiseL=[15, 25, 35, 50, 75],  # what --test_noiseL all stands for: the paper's
    mode="S",  # S: trained at the sigma of the test; B: blind; R: real noise, tested on pairs
    pairs=("*_real*", "*_mean*"),  # mode R: names of noisy and clean pictures, as in PolyU and CC
    data_dir="data",
    weights_dir="weights",
    device="auto",  # CUDA, else MPS, else CPU
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    return testing.test(argv, description=__doc__, defaults=DEFAULTS, channels=3)


if __name__ == "__main__":
    run_script(main)
