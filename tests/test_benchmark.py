"""The benchmark's reference computes what our network does, and its figures are of the right kind;
no time is asserted."""

import json
import math
import time

import pytest
import torch
from torch.nn import functional as F

import benchmark
from models import SMNet
from smnet import sweep
from smnet.peers import PEERS
from smnet.sweep import ways, why_skipped
from smnet.timing import TASKS, Setup, medians, nan_last, plain_reference, seconds_in_a_loop
from smnet.training.samples import PatchDataset

CPU = torch.device("cpu")
TINY = "--width 4 --size 32 40 --batchsize 2 --repeats 1 --device cpu"


@pytest.mark.parametrize("channels", [1, 3])
def test_one_step_of_ours_and_of_the_plain_reference_have_the_same_gradients(channels):
    torch.manual_seed(0)
    ours = SMNet(channels, 16)
    for block in ours.noise_memory.decoder:
        torch.nn.init.normal_(block.non_local.out.weight, std=0.1)
    plain = plain_reference(ours)
    ours.to(memory_format=torch.channels_last)
    clean = torch.rand(2, channels, 48, 48)
    noisy = clean + 0.1 * torch.randn_like(clean)
    for model in (ours, plain):
        F.mse_loss(model(noisy), clean).backward()
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            p.grad, q.grad, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    with torch.inference_mode():
        torch.testing.assert_close(ours(noisy), plain(noisy), atol=1e-5, rtol=0)


def test_the_work_is_the_published_networks():
    assert benchmark.multiply_adds(SMNet(1, 64), 64, 64) / 64**2 == pytest.approx(4.198e6, rel=1e-3)


@pytest.mark.slow
def test_ours_beside_plain(capsys):
    assert benchmark.main([*TINY.split(), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for what in ("forward", "train"):
        assert figures[what]["ours"]["seconds"] > 0 and figures[what]["speedup"] > 0
        assert figures[what]["ours"]["peak_gb"] >= 0
    assert benchmark.main([*TINY.split(), "--what", "train", "--amp"]) == 0
    said = capsys.readouterr().out
    assert (
        "width 4, gray, 2 x 32x40 pixels, amp" in said
        and "times as fast as the plain reference" in said
    )


@pytest.mark.slow
def test_ours_beside_other_papers_networks(capsys):
    assert benchmark.main([*TINY.split(), "--peers"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["SMNet,", *PEERS]
    assert rows[2].split()[2] == "1.00"  # DnCNN, by which the others are divided


@pytest.mark.parametrize(
    "name, gray, rgb",  # millions of parameters, as Zhang et al. 2022 give them
    [("FFDNet", 0.49, 0.85), ("DnCNN", 0.66, 0.67), ("DRUNet", 32.64, 32.64)],
)
def test_peers_have_the_published_layers(name, gray, rgb):
    for channels, millions in ((1, gray), (3, rgb)):
        model = PEERS[name](channels)
        count = sum(p.numel() for p in model.parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.0075)
        assert model(torch.rand(2, channels, 16, 24)).shape == (2, channels, 16, 24)


@pytest.mark.parametrize(
    "words, said",
    [
        ("--peers --sweep", "two benchmarks"),
        ("--peers --size 481 321", "--peers needs sides divisible by 8, not 481x321"),
        ("--peers --what train", "--what has no meaning for --peers"),
        ("--sweep --amp", "--amp has no meaning for --sweep"),
        ("--limit 5", "--limit has no meaning for all but --sweep"),
    ],
)
def test_options_that_do_not_go_together(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        benchmark.main(words.split())
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_a_whole_training_step_is_computed_as_asked(monkeypatch):
    seen = []
    flags = torch.backends.cudnn
    before = flags.allow_tf32, flags.benchmark
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda *args: seen.append((flags.allow_tf32, flags.benchmark)) or step(*args),
    )
    setup = Setup(width=4, size=(32, 32), tf32=True, cudnn_benchmark=True)
    TASKS["train"](setup, CPU)()
    assert seen == [(True, True)] and (flags.allow_tf32, flags.benchmark) == before


def test_what_runs_out_of_memory_is_null():
    def fail():
        raise torch.OutOfMemoryError("out of memory")

    seconds = medians({"fits": lambda: lambda: None, "fails": lambda: fail}, repeats=2, device=CPU)
    assert seconds["fits"] >= 0 and math.isnan(seconds["fails"])
    tasks = iter([fail, lambda: None, lambda: None])
    once = medians({"once": lambda: next(tasks)}, repeats=3, device=CPU)
    assert math.isnan(once["once"]) and min([math.nan, 5, 3], key=nan_last) == 3
    assert json.loads(benchmark.as_json({"a": math.nan, "b": 1})) == {"a": None, "b": 1}


def test_a_sweep_times_steps_and_reading(monkeypatch):
    monkeypatch.setattr(sweep, "WORKERS", (0, 1))
    monkeypatch.setattr(sweep, "READ_FOR", 0.1)
    monkeypatch.setattr(sweep, "WIDTHS", (4,))
    base = Setup(channels=3, size=(32, 32), batchsize=2)
    rows = [*sweep.sweep_workers(base, time_left=lambda: 1)]
    assert [(row["noise"], row["workers"]) for row in rows] == [
        ("white", "0"), ("white", "1"), ("camera", "0"), ("camera", "1"),
    ]  # fmt: skip
    assert all(row["pictures_per_second"] > 0 for row in rows)

    def fail(setup, device):
        if setup.compile:
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nmore")
        if setup.channels_last and setup.amp:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda: None

    monkeypatch.setattr(sweep, "train_task", fail)
    notes = [row.get("note", "timed") for row in sweep.sweep_steps(base, CPU, time_left=lambda: 1)]
    counts = {note: notes.count(note) for note in notes}
    assert counts == {
        "timed": 4,
        "out of memory": 2,
        "failed: InvalidCxxCompiler: no working C++ compiler": 6,
        "skipped: needs CUDA": 32,
        "skipped: muon needs channels_last": 4,
    }


def test_reading_ends_with_the_data(gray_h5):
    settings = dict(channels=1, patch_size=32, noise_range=(0, 55), draws=1, seed=0)
    assert sweep.pictures_a_second(PatchDataset(gray_h5[0], **settings), 0, 4) > 0  # three batches


def test_a_sweep_says_what_it_leaves_out(capsys):
    assert benchmark.main("--sweep --limit 0 --device cpu --size 32 40 --json".split()) == 0
    about, *rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert about["device"] == "cpu" and all("skipped" in row["note"] for row in rows)
    steps = [row for row in rows if "optimizer" in row]
    assert len(steps) == 96 and len({tuple(row.values()) for row in steps}) == 96
    notes = {row["note"] for row in steps}
    assert {"skipped: needs CUDA", "skipped: no time left"} < notes


def test_every_eager_way_of_a_step_that_this_device_has_can_be_computed():
    base = Setup(channels=3, size=(32, 32), batchsize=1)
    for words, setup in ways(base):
        if words["mode"] == "eager" and words["width"] == "16" and not why_skipped(setup, CPU):
            TASKS["train"](setup, CPU)()


def test_short_tasks_are_timed_in_loops():
    calls = []
    assert seconds_in_a_loop(lambda: calls.append(1), CPU) < 0.05
    assert len(calls) > 100
    calls.clear()
    assert seconds_in_a_loop(lambda: calls.append(time.sleep(0.06)), CPU) >= 0.06
    assert len(calls) == 2
