"""What the command lines share: numbers, running out of memory, problems of one line."""

import argparse
import signal

import pytest
import torch

import utils
from smnet import cli
from smnet.cli import number, refuse_overwrite, report_problems
from utils import SMNetError


def test_numbers_on_the_command_line():
    assert number(int, 1)("3") == 3 and number(float, 0, 255)("12.5") == 12.5
    for parse, text in (
        (number(int, 1), "0"),
        (number(int, 1), "1.5"),
        (number(float, 0, 255), "nan"),
        (number(float, 0), "inf"),
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def test_out_of_memory_is_one_line():
    def greedy():
        torch.empty(1 << 60)

    with pytest.raises(SystemExit) as caught:
        cli.run_script(greedy)
    assert "out of memory; use smaller pictures, or in training" in str(caught.value.code)


def test_a_failure_to_compile_is_one_line():
    def compiled():
        raise torch._dynamo.exc.BackendCompilerFailed(compiled, RuntimeError("no gcc"), [])

    with pytest.raises(SystemExit) as caught:
        cli.run_script(compiled)
    assert str(caught.value.code).startswith("error: torch.compile failed (")
    assert str(caught.value.code).endswith("; leave out --compile")


def test_sigterm_clears_away_what_is_half_written(tmp_path):
    def ended():
        with utils.replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.run_script(ended)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143 and not list(tmp_path.iterdir())


def test_each_problem_is_a_line_and_the_status_is_1(capsys):
    assert report_problems(["a\nb: damaged", "c: empty"], prefix="error") == 1
    assert capsys.readouterr().err == "error: a\\nb: damaged\nerror: c: empty\n"


def test_no_problem_is_status_0(capsys):
    assert report_problems([], prefix="error") == 0
    assert capsys.readouterr().err == ""


def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path):
    path = tmp_path / "a"
    refuse_overwrite(path, overwrite=False)
    path.touch()
    refuse_overwrite(path, overwrite=True)
    with pytest.raises(SMNetError, match="a already exists; --overwrite replaces it, or else"):
        refuse_overwrite(path, overwrite=False, advice=", or else")
