"""torch.hub: the networks that it lists, in a program with modules of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hubconf
import utils
from utils import SMNetError


def test_torch_hub(packed):
    root = str(Path(utils.__file__).parent)
    model = torch.hub.load(root, "smnet_gray_blind", source="local")
    assert (
        model.channels == 1
        and not model.training
        and model(torch.rand(1, 1, 30, 30)).shape == (1, 1, 30, 30)
    )
    kinds = ("", "_blind", "_real")
    assert {f"smnet_{color}{kind}" for color in ("gray", "rgb") for kind in kinds} == {
        name for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"
    }  # what torch.hub lists
    with pytest.raises(
        SMNetError, match="rgb_L25.pth does not come with SMNet; in .*shipped there are gray_B"
    ):
        torch.hub.load(root, "smnet_rgb", source="local", sigma=25)
    with pytest.raises(SMNetError, match="gray_R.pth does not come with SMNet"):
        torch.hub.load(root, "smnet_gray_real", source="local")
    shutil.copy(packed / "gray_B.pth", packed / "gray_R.pth")
    assert torch.hub.load(root, "smnet_gray_real", source="local").channels == 1


@pytest.mark.slow
def test_torch_hub_leaves_a_programs_own_modules_alone(packed, tmp_path):
    """In a process of its own, with a module called utils of its own, and one called models that is
    read later."""
    root = Path(utils.__file__).parent
    copy = shutil.copytree(
        root,
        tmp_path / "clone",
        ignore=lambda folder, names: [n for n in names if not n.endswith(".py") and n != "smnet"],
    )
    shutil.copytree("shipped", copy / "pretrained")
    Path("utils.py").write_text("MINE = 1\n")
    Path("models.py").write_text("MINE = 2\n")
    Path("program.py").write_text(
        "import torch, utils\n"
        "model = torch.hub.load('clone', 'smnet_gray_blind', source='local')\n"
        "import models\n"
        "with torch.inference_mode():\n"
        "    assert model(torch.rand(1, 1, 40, 40)).shape == (1, 1, 40, 40)\n"
        "assert (utils.MINE, models.MINE) == (1, 2)\n"
    )
    subprocess.run([sys.executable, "program.py"], check=True)
