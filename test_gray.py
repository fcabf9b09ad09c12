"""Test SMNet on gray pictures: PSNR and SSIM under the authors' noise, beside the paper's numbers.

    python test_gray.py --mode S --test_data Set12       # weights/model_gray_L25_N.pth, highest N
    python test_gray.py -checkpoint 40 --mode S --test_noiseL 15 --test_data Set12
    python test_gray.py --mode B --test_data all --test_noiseL all --json results.json
    python test_gray.py --weights FILE --test_data sample my_pictures --baseline --save_dir out
    python test_gray.py --mode R --test_data val_gray_pairs.h5       # pairs of real noise

The noise is the authors': one draw a picture from a CPU generator seeded 0, not clipped, not
rounded. The output is clamped to [0, 1]. docs/testing.md says more; the command is in
smnet/testing.py, the loop in smnet/evaluation.py.
"""

from smnet import testing
from smnet.cli import run_script

# --------------------------------------------------------------------------------------------------
# Edit here, or give the option of the same name.
DEFAULTS = dict(
    test_data=["Set12"],  # names of folders in data_dir, any folders of pictures, or "sample"
    all_data=["Set12", "Set68"],  # what --test_data all stands for
    real_data=["CC"],  # what --mode R tests where no --test_data is given
    test_noiseL=[25],  # grey levels 0-255
    all_noiseL=[15, 25, 50],  # what --test_noiseL all stands for: the paper's
    mode="S",  # S: trained at the sigma of the test; B: blind; R: real noise, tested on pairs
    pairs=("*_real*", "*_mean*"),  # mode R: names of noisy and clean pictures, as in PolyU and CC
    data_dir="data",
    weights_dir="weights",
    device="auto",  # CUDA, else MPS, else CPU
)
# --------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    return testing.test(argv, description=__doc__, defaults=DEFAULTS, channels=1)


if __name__ == "__main__":
    run_script(main)
