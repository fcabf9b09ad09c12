# Trains the networks for one level that are not yet in pretrained/, from the states in this folder where there are any, and
# tests them. Started again, it goes on.
set -euo pipefail
export OMP_NUM_THREADS=1
common="--width 16 --patch_size 64 --amp --optimizer muon --betas 0.9 0.99 --schedule cosine --warmup 50 --ema 0.999 --grad_clip 1 --workers 1"
short="$common --lr 5e-4 --muon_lr 0.0025 --max_steps 2800"
long="$common --lr 1e-3 --muon_lr 0.005 --max_steps 6000"

[ -f val_data.h5 ] || python dataset.py --train_dir data/BSDS500 --holdout 20
[ -f val_gray_data.h5 ] || python dataset_gray.py --train_dir data/BSDS500 --holdout 20
mkdir -p weights logs results
for state in pretrained/unfinished/*_state.pth; do
    name=$(basename "$state" _state.pth)
    [ -f "weights/${name}_state.pth" ] || cp "$state" weights/
    [ -f "logs/$name.jsonl" ] || [ ! -f "pretrained/unfinished/$name.jsonl" ] || cp "pretrained/unfinished/$name.jsonl" logs/
done

level() { # level KIND SIGMA EPOCHS OPTIONS...: trains where the last weights are not there yet
    local kind=$1 sigma=$2 epochs=$3 script=train_$1.py name=model_$1_L$2
    shift 3
    [ -f "weights/${name}_$epochs.pth" ] && return
    [ ! -f "weights/${name}_state.pth" ] || set -- "$@" --resume
    python "$script" --noiseL "$sigma" --init "pretrained/${kind}_B.pth" "$@" >>"$name.log" 2>&1
}

(
    level gray 25 4 $long
    level gray 50 2 $short
    level gray 15 2 $short
) &
gray=$!
(
    level rgb 50 2 $short
    level rgb 15 2 $short
) &
rgb=$!
wait $gray
wait $rgb

unset OMP_NUM_THREADS
# The held-out pictures, to choose by; then the test sets.
python test_gray.py --mode S --test_noiseL 15 25 50 --test_data val_gray_data.h5 --json results/heldout_gray_S.json
python test_rgb.py --mode S --test_noiseL 15 25 50 --test_data val_data.h5 --json results/heldout_rgb_S.json
python test_gray.py --mode S --test_noiseL 15 25 50 --test_data Set12 Set68 --json results/gray_S.json
python test_rgb.py --mode S --test_noiseL 15 25 50 --test_data CBSD68 --json results/rgb_S.json
