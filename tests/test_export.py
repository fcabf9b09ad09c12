"""ONNX: standard operators only, the same numbers as PyTorch at sizes it was not traced with."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import save_model

import export
import utils
from utils import SMNetError


@pytest.mark.slow
def test_the_onnx_file_gives_the_same_numbers(tmp_path, capsys):
    save_model(tmp_path, "net", channels=3)
    model = utils.load_model(tmp_path / "net.pth")
    for block in model.noise_memory.decoder:
        torch.nn.init.normal_(block.non_local.out.weight)  # attention that does something
    utils.save_checkpoint(
        tmp_path / "net.pth", {"model": model.state_dict(), "channels": 3, "width": 4}
    )
    assert export.main([str(tmp_path / "net.pth")]) == 0
    assert "differs from PyTorch by at most" in capsys.readouterr().out
    file = tmp_path / "net.onnx"
    graph = onnx.load(file).graph
    assert {node.domain for node in graph.node} == {""} and "MaxUnpool" not in {
        node.op_type for node in graph.node
    }
    x = torch.rand(1, 3, 160, 32)
    (output,) = onnxruntime.InferenceSession(file.read_bytes()).run(None, {"noisy": x.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(output, model(x).numpy(), atol=1e-5)
    with pytest.raises(SMNetError, match="--overwrite"):
        export.main([str(tmp_path / "net.pth")])
    with pytest.raises(SMNetError, match="is a folder; give the name of a file"):
        export.main([str(tmp_path / "net.pth"), "-o", str(tmp_path)])


def test_what_export_needs_is_said_in_a_line(tmp_path, monkeypatch):
    save_model(tmp_path, "net")
    monkeypatch.setattr(export, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(SMNetError, match="needs no_such_package: pip install onnx no_such_package"):
        export.main([str(tmp_path / "net.pth")])
