"""The scripts as a user types them: the four presets side by side, the contract's commands, exit
statuses, no tracebacks."""

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAIN_SCRIPTS = ["train_rgb", "train_gray", "train_rgb_blind", "train_gray_blind"]
SCRIPTS = [
    *("dataset", "dataset_gray", *TRAIN_SCRIPTS, "test_rgb", "test_gray"),
    *("demo", "denoise", "download", "export", "pack", "report"),
]


def test_the_train_scripts_differ_only_where_they_should():
    presets = {name: importlib.import_module(name).DEFAULTS for name in TRAIN_SCRIPTS}
    common = {
        key for key in presets["train_rgb"] if all(key in preset for preset in presets.values())
    }
    differing = {
        key for key in common if len({str(preset[key]) for preset in presets.values()}) > 1
    }
    assert differing == {"train_h5", "val_h5", "epochs", "val_noiseL"}
    assert [presets[name]["epochs"] for name in TRAIN_SCRIPTS] == [50, 50, 100, 100]
    assert presets["train_gray"]["noiseL"] == 25 and tuple(
        presets["train_rgb_blind"]["noiseL_range"]
    ) == (0, 55)
    authors = dict(
        batchsize=8,
        patch_size=256,
        lr=5e-4,
        milestones=(10, 40),
        optimizer="adam",
        schedule="multistep",
        draws=8,
    )
    assert {key: presets["train_rgb"][key] for key in authors} == authors
    assert all(
        presets["train_rgb"][key] == 0 for key in ("ema", "grad_clip", "warmup", "max_steps")
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_defaults_and_a_misspelt_hyperparameter_is_an_error(name, capsys):
    script = importlib.import_module(name)
    with pytest.raises(SystemExit) as caught:
        script.main(["--help"])
    assert caught.value.code == 0
    assert f"python {name}.py" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        script.main(["--no_such_option"])
    assert caught.value.code == 2
    if name in TRAIN_SCRIPTS:
        with (
            pytest.raises(TypeError, match="no such hyperparameter: batch_size"),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setitem(script.DEFAULTS, "batch_size", 8)
            script.main([])


@pytest.mark.parametrize(
    "entry, value, said",
    [
        ("schedule", "cos", "choose from multistep, cosine"),
        ("optimizer", "Muon", "choose from adam, muon"),
        ("milestones", 10, "it must be a list, such as (10,)"),
        ("milestones", (10, 0.5), "'0.5' is not a whole number"),
        ("batchsize", 0, "0 is out of range"),
        ("batchsize", (8,), "it must be one value"),
        ("betas", (0.9,), "it must be 2 values"),
        ("lr", None, "'None' is not a number"),
        ("amp", "yes", "it must be True or False"),
        ("weights_dir", None, "it must be a text in quotes"),
    ],
)
def test_a_wrong_edit_of_a_hyperparameter_is_one_line(entry, value, said, monkeypatch, capsys):
    script = importlib.import_module("train_gray")
    monkeypatch.setitem(script.DEFAULTS, entry, value)
    with pytest.raises(SystemExit) as caught:
        script.main([])
    assert caught.value.code == 2
    assert f"the script's entry {entry}={value!r}: {said}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_of_the_authors_on_a_machine_without_data(tmp_path):
    """In a process of their own: one or two lines and exit status 1, since neither data nor weights
    are there."""
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "smnet", tmp_path / "smnet")
    for command, said in (
        ("train_rgb.py --batchsize 8 -checkpoint 0 --noiseL 25", "no file train_data.h5"),
        ("train_gray_blind.py --batchsize 8 -checkpoint 0", "python dataset_gray.py"),
        (
            "test_rgb.py -checkpoint 40 --mode S --test_noiseL 15 --test_data McMaster",
            "no test set McMaster",
        ),
        (
            "test_gray.py -checkpoint 40 --mode S --test_noiseL 15 --test_data sample",
            "model_gray_L15_40.pth",
        ),
    ):
        done = subprocess.run(
            [sys.executable, *command.split()], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.startswith("error: ") and said in done.stderr
        assert done.stderr.count("\n") <= 2


def imported_names(path: Path) -> set[str]:
    """The modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def test_the_package_imports_no_script():
    scripts = {path.stem for path in ROOT.glob("*.py")} - {"models", "utils"}
    for path in (ROOT / "smnet").rglob("*.py"):
        assert not imported_names(path) & scripts, path


def test_at_most_20_modules_lie_at_the_top():
    assert len(list(ROOT.glob("*.py"))) <= 20
