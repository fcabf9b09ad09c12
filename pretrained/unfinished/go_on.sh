# Finishes the runs that this folder has the states of, and all that is trained from them. Started again, it goes on.
set -euo pipefail
export OMP_NUM_THREADS=1
common="--width 16 --patch_size 64 --amp --optimizer muon --betas 0.9 0.99 --schedule cosine --ema 0.999 --grad_clip 1 --workers 1"
blind="$common --lr 2e-3 --warmup 100 --max_steps 20000"
level="$common --lr 5e-4 --muon_lr 0.0025 --warmup 50 --max_steps 3200"

[ -f val_data.h5 ] || python dataset.py --train_dir data/BSDS500 --holdout 20
[ -f val_gray_data.h5 ] || python dataset_gray.py --train_dir data/BSDS500 --holdout 20
mkdir -p weights logs
for kind in gray rgb; do
    [ -f weights/model_${kind}_B_state.pth ] || cp pretrained/unfinished/model_${kind}_B_state.pth weights/
    [ -f logs/model_${kind}_B.jsonl ] || cp pretrained/unfinished/model_${kind}_B.jsonl logs/
done

run() { # run NAME COMMAND...: trains where the last weights (epoch $LAST) are not there yet, from the state if there is one
    local name=$1
    shift
    [ -f weights/model_${name}_$LAST.pth ] && return
    [ ! -f weights/model_${name}_state.pth ] || set -- "$@" --resume
    python "$@" >>"$name.log" 2>&1
}

LAST=14 # 20,000 steps are 13.2 epochs of 1,520
run gray_B train_gray_blind.py $blind &
run rgb_B train_rgb_blind.py $blind &
wait
ls weights/model_{gray,rgb}_B_$LAST.pth # stops here where a run was stopped
LAST=3 # 3,200 steps
for sigma in 15 25 50; do
    run gray_L$sigma train_gray.py --noiseL $sigma --init weights/model_gray_B_14.pth $level &
    run rgb_L$sigma train_rgb.py --noiseL $sigma --init weights/model_rgb_B_14.pth $level &
    wait
    ls weights/model_{gray,rgb}_L${sigma}_$LAST.pth
done

unset OMP_NUM_THREADS
mkdir -p results
for mode in B S; do # the held-out pictures, to choose by; then the test sets
    python test_gray.py --mode $mode --test_noiseL 15 25 50 --test_data val_gray_data.h5 --json results/heldout_gray_$mode.json
    python test_rgb.py --mode $mode --test_noiseL 15 25 50 --test_data val_data.h5 --json results/heldout_rgb_$mode.json
done
for mode in B S; do
    python test_gray.py --mode $mode --test_noiseL 15 25 50 --test_data Set12 Set68 --baseline --json results/gray_$mode.json
    python test_rgb.py --mode $mode --test_noiseL 15 25 50 --test_data CBSD68 --baseline --json results/rgb_$mode.json
done
