"""Check on a GPU what the tests can only check on a CPU: one command, meant for nine minutes; the
last check, of --compile, may take three more.

    python tests/gpu_check.py                       # on the GPU; without one, what a CPU can do
    python tests/gpu_check.py --only forward loop   # some of the checks
    python tests/gpu_check.py --json gpu.json

Each check runs in a process of its own with a time limit, three times as long on a CPU, so that a
crash or a hang is one line in the table. Without CUDA, what needs it says "skipped". Exit status:
0, or 1 if a check failed.
"""

import argparse
import contextlib
import io
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from golden import authors_names, computed_weight  # noqa: E402
from helpers import build_h5  # noqa: E402

import dataset_gray  # noqa: E402
import train_gray  # noqa: E402
import utils  # noqa: E402
from models import NonLocalBlock, SMNet  # noqa: E402
from smnet.devices import has_bf16  # noqa: E402
from smnet.tiling import Denoiser  # noqa: E402
from smnet.training.learner import Learner  # noqa: E402

RUN = "model_gray_L25"
TRAIN = "--noiseL 25 --width 8 --patch_size 32 --batchsize 6 --draws 10 --workers 0 --seed 1"


class Skipped(Exception):
    """This check needs what is not here."""


def need_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        raise Skipped("needs CUDA")


# ------------------------------------------------------------------------------------------ checks


def forward(device: torch.device) -> dict:
    """CPU and device give outputs within 1e-4 and gradients within 1e-3, each relative to its own
    greatest value, or to 1e-5 of the greatest of all.

    Where two neighbours are nearly equal, rounding decides which of them is pooled, and unpooling
    then puts its value elsewhere: one pixel in a thousand may differ by up to 1e-2, and one weight
    in a thousand by 5e-2 in its gradient. A picture of one pixel, padded by itself, is all such
    ties: its gradients are not compared.
    """
    worst = {"output": 0.0, "single pixels": 0.0, "gradient": 0.0, "single weights": 0.0}
    for width in (4, 12, 16, 64):
        for channels, height, rows in ((1, 1, 1), (3, 37, 61), (1, 64, 64)):
            torch.manual_seed(width)
            model = SMNet(channels, width)
            for block in model.noise_memory.decoder:  # they start at zero, which hides attention
                torch.nn.init.normal_(block.non_local.out.weight, std=0.1)
            x = torch.rand(2, channels, height, rows)
            ours, grads = output_and_gradients(model, x)
            theirs, theirs_grads = output_and_gradients(model.to(device), x.to(device))
            errors = (ours - theirs.cpu()).abs().flatten() / max(1.0, ours.abs().max().item())
            note_errors(worst, ("output", "single pixels"), errors)
            if height > 1:
                errors = differences(grads, theirs_grads)
                note_errors(worst, ("gradient", "single weights"), errors)
    limits = {"output": 1e-4, "single pixels": 1e-2, "gradient": 1e-3, "single weights": 5e-2}
    assert all(worst[what] < limit for what, limit in limits.items()), worst
    return worst


def output_and_gradients(model: SMNet, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    output = model(x)
    output.square().mean().backward()
    return output.detach(), [p.grad.clone() for p in model.parameters()]


def differences(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
    """Of all elements, each relative to the greatest value of its tensor, or to 1e-5 of that of
    all."""
    least = 1e-5 * max(a.abs().max().item() for a in ours)
    return torch.cat(
        [
            (a - b.cpu()).abs().flatten() / max(least, a.abs().max().item())
            for a, b in zip(ours, theirs)
        ]
    )


def note_errors(worst: dict, names: tuple[str, str], errors: torch.Tensor) -> None:
    """Take over the greatest error but for one in a thousand, and the greatest of all."""
    common = errors.kthvalue(math.ceil(0.999 * len(errors))).values.item()
    for name, error in zip(names, (common, errors.max().item())):
        worst[name] = max(worst[name], error)


def golden(device: torch.device) -> dict:
    """The authors' outputs from the authors' weights, within 1e-4 of full float32."""
    stored = np.load(ROOT / "tests" / "golden.npz")
    seed, names, worst = int(stored["seed"]), authors_names(), 0.0
    for case in sorted({key.split("/")[0] for key in stored.files if "/" in key}):
        channels, n, height, width = map(int, case.split("x"))
        model = SMNet(channels)
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(computed_weight(names[name], value.shape))
        x = np.random.default_rng([seed, channels, n, height, width])
        x = torch.from_numpy(x.random((n, channels, height, width), dtype=np.float32))
        with torch.inference_mode():
            stages = model.to(device).stages(x.to(device))
        for name, ours in zip(("noise_mask", "residual", "output"), stages):
            worst = max(worst, float(np.abs(ours.cpu().numpy() - stored[f"{case}/{name}"]).max()))
    assert worst < 1e-4, worst
    return {"greatest difference": worst}


def losses(device: torch.device, *options: str) -> list[float]:
    """The losses of 20 steps of train_gray.py, by epoch of 20 steps."""
    with tempfile.TemporaryDirectory() as folder:
        train_h5, val_h5 = build_h5(Path(folder), dataset_gray, 1)
        words = f"{TRAIN} --train_h5 {train_h5} --val_h5 {val_h5} --max_steps 20 --epochs 1"
        words += f" --device {device} --weights_dir {folder}/w --log_dir {folder}/l"
        run_script("train_gray.py", *words.split(), *options)
        text = (Path(folder) / "l" / f"{RUN}.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def run_script(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:] or done.stdout[-600:]
    return done.stdout


def modes(device: torch.device) -> dict:
    """Every way of training comes near float32's loss over 20 steps."""
    found = {"float32": losses(device)[0]}
    ways = {
        "amp": ["--amp"],
        "accumulate": ["--accumulate", "3"],
        "muon, average, clipping": "--optimizer muon --ema 0.9 --grad_clip 1".split(),
    }
    if device.type == "cuda":
        ways["tf32"] = ["--tf32"]
    for name, options in ways.items():
        found[name] = losses(device, *options)[0]
    limits = {"amp": 0.05, "muon, average, clipping": 1.0}
    for name, loss in found.items():
        assert abs(loss / found["float32"] - 1) < limits.get(name, 0.01), found
    return found


def compiled(device: torch.device) -> dict:
    """`--compile` comes near the eager loss over 20 steps."""
    need_cuda(device)
    penalty = "--dead_relu_penalty", "1e-3"  # which needs hooks
    eager, compiled = losses(device, *penalty)[0], losses(device, *penalty, "--compile")[0]
    found = {"eager": eager, "compiled": compiled}
    assert abs(found["compiled"] / found["eager"] - 1) < 0.01, found
    return found


def restart(device: torch.device) -> dict:
    """torchrun (NCCL on CUDA): train, SIGTERM, resume; the same loss as without a break."""
    with tempfile.TemporaryDirectory() as folder:
        train_h5, val_h5 = build_h5(Path(folder), dataset_gray, 1)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1"]
        words = f"train_gray.py {TRAIN} --train_h5 {train_h5} --val_h5 {val_h5}"
        command = [*launcher, *words.split(), "--device", device.type]
        broken, straight = (
            ["--weights_dir", f"{folder}/{name}", "--log_dir", f"{folder}/{name}"]
            for name in ("broken", "straight")
        )
        process = subprocess.Popen(
            [*command, *broken, "--epochs", "400"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            for line in process.stdout:
                if line.startswith("epoch 2"):
                    break
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            end(process)
        reached = utils.read_checkpoint(f"{folder}/broken/{RUN}_state.pth")["progress"]["epoch"]
        epochs = ["--epochs", str(reached + 2)]
        said = run_script(*command[1:], *broken, *epochs, "--resume")
        assert f"resumed after {reached} epochs" in said, said[-600:]
        run_script(*command[1:], *straight, *epochs)
        ours, theirs = (
            [json.loads(line)["loss"] for line in Path(folder, name, f"{RUN}.jsonl").open()]
            for name in ("broken", "straight")
        )
    assert len(ours) == len(theirs) == reached + 2, (len(ours), len(theirs), reached)
    assert abs(ours[-1] / theirs[-1] - 1) < 0.01, (ours[-1], theirs[-1])
    return {"epochs": len(ours), "broken off after": reached, "losses": [ours[-1], theirs[-1]]}


def attention(device: torch.device) -> dict:
    """Attention never stores its scores, but for d = 2 in float32 (networks of width 4), which no
    kernel takes; peak memory in MB."""
    need_cuda(device)
    found = {}
    half = torch.bfloat16 if has_bf16(device) else torch.float16
    for d in (2, 4, 8, 32):
        for dtype in (torch.float32, half):
            block = NonLocalBlock(2 * d).to(device, dtype)
            x = torch.randn(1, 2 * d, 256, 256, device=device, dtype=dtype)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            with torch.inference_mode():
                block(x)
            peak = (torch.cuda.max_memory_allocated(device) - before) / 1e6
            found[f"d {d}, {str(dtype)[6:]}"] = round(peak, 1)
            scores = 256**2 * 128**2 * x.element_size() / 1e6
            # No kernel takes these.
            stored = d == 2 and dtype == torch.float32 or d < 8 and dtype == torch.float16
            assert stored or peak < scores / 10, (
                f"d {d}, {dtype}: {peak:.0f} MB of {scores:.0f} for scores"
            )
    return found


def tiles(device: torch.device) -> dict:
    """A picture that does not fit is denoised in tiles, with about the same result as whole."""
    need_cuda(device)
    torch.manual_seed(0)
    model = SMNet(1, 64).to(device)
    picture = torch.rand(1, 1024, 1024)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(2e9 / total)
    denoiser = Denoiser(model, tile=0)
    output = denoiser(picture)
    assert denoiser.limit < 1024, "it fitted: nothing was checked"
    torch.cuda.set_per_process_memory_fraction(1.0)
    whole = Denoiser(model, tile=0)
    difference = (whole(picture) - output).abs().mean().item()
    assert whole.limit == math.inf, "the whole picture did not fit: nothing was compared"
    assert difference < 1e-3, difference
    return {"side of the tiles": denoiser.limit, "mean difference from whole": difference}


def loop(device: torch.device) -> dict:
    """Five steps of the loop that trains never make the CPU wait for the GPU."""
    need_cuda(device)
    step, steps = Learner.step, 0

    def watched(learner: Learner, *batch: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps in (3, 8):
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error" if steps == 3 else "default")
        return step(learner, *batch)

    Learner.step = watched
    with tempfile.TemporaryDirectory() as folder:
        train_h5, val_h5 = build_h5(Path(folder), dataset_gray, 1)
        words = f"{TRAIN} --train_h5 {train_h5} --val_h5 {val_h5} --max_steps 9 --epochs 1"
        words += f" --optimizer {'muon' if has_bf16(device) else 'adam'} --dead_relu_penalty 1e-3"
        words += " --ema 0.9 --grad_clip 1 --amp --accumulate 2"
        words += f" --device {device} --weights_dir {folder}/w --log_dir {folder}/l"
        with contextlib.redirect_stdout(io.StringIO()):
            train_gray.main(words.split())
    assert steps == 9, steps
    return {"steps": steps, "bf16": has_bf16(device)}


def scripts(device: torch.device) -> dict:
    """test_gray.py and denoise.py on the device give what they give on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        found, pictures = {}, []
        noisy = np.random.default_rng(0).normal(128, 25, (300, 400, 3)).clip(0, 255)
        cv2.imwrite(f"{folder}/noisy.png", noisy.round().astype(np.uint8))
        for name in ("cpu", str(device)):
            words = f"--mode B --test_data sample --device {name} --json {folder}/{name[:4]}.json"
            run_script("test_gray.py", *words.split())
            runs = json.loads((Path(folder) / f"{name[:4]}.json").read_text())
            found[name] = runs[0]["mean"]["psnr"]["SMNet"]
            result = f"{folder}/{name[:4]}.png"
            run_script(
                "denoise.py", f"{folder}/noisy.png", "-o", result, "--device", name, "--overwrite"
            )
            pictures.append(cv2.imread(result).astype(int))
    assert abs(found["cpu"] - found[str(device)]) < 0.01, found
    found["pixels apart"] = float((np.abs(pictures[0] - pictures[-1]) > 1).mean())
    assert found["pixels apart"] < 1e-3, found
    return found


CHECKS: dict[str, tuple[Callable[[torch.device], dict], int]] = {  # seconds on a GPU
    "forward": (forward, 60), "golden": (golden, 50), "modes": (modes, 120),
    "restart": (restart, 90), "attention": (attention, 20), "tiles": (tiles, 30),
    "loop": (loop, 20), "scripts": (scripts, 60), "compiled": (compiled, 200),
}  # fmt: skip


# ----------------------------------------------------------------------------------------- command


def run_one(name: str, device: str) -> dict:
    """A check in a process of its own: its outcome ("passed", "failed", "skipped") and figures."""
    started = time.monotonic()
    limit = CHECKS[name][1] * (3 if device == "cpu" else 1)
    command = [sys.executable, __file__, "--check", name, "--device", device]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    try:
        out, err = process.communicate(timeout=limit)
        lines = out.strip().splitlines()
        result = json.loads(lines[-1]) if process.returncode == 0 and lines else None
        result = result or {"outcome": "failed", "why": (err or out)[-400:].strip()}
    except subprocess.TimeoutExpired:
        end(process)
        result = {"outcome": "failed", "why": f"not done after {limit} s"}
    return {"check": name, **result, "seconds": round(time.monotonic() - started, 1)}


def end(process: subprocess.Popen) -> None:
    """Kill a process and all that it has started: torchrun's workers are in sessions of their
    own, so that a signal to its group does not reach them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [*(parent := psutil.Process(process.pid)).children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError):  # its pipes may be closed
        process.communicate(timeout=10)


def check_here(name: str, device: str) -> dict:
    """Run a check in this process."""
    torch.backends.cudnn.allow_tf32 = False
    try:
        return {"outcome": "passed", "figures": CHECKS[name][0](torch.device(device))}
    except Skipped as reason:
        return {"outcome": "skipped", "why": str(reason)}
    except AssertionError as error:
        return {"outcome": "failed", "why": str(error)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--only", nargs="+", choices=CHECKS, help="checks to run (default: all)")
    parser.add_argument("--device", default=there, help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write outcomes and figures there")
    parser.add_argument("--check", choices=CHECKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        print(json.dumps(check_here(args.check, args.device)))
        return 0
    results = []
    for name in args.only or CHECKS:
        result = run_one(name, args.device)
        results.append(result)
        shown = result.get("figures") or result.get("why", "")
        print(f"{name:10} {result['outcome']:8} {result['seconds']:6.1f} s  {shown}", flush=True)
    if args.json:
        on_cuda = torch.device(args.device).type == "cuda"
        name = torch.cuda.get_device_name(args.device) if on_cuda else "CPU"
        content = {"device": name, "torch": torch.__version__, "checks": results}
        with utils.replacing(args.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if any(result["outcome"] == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
