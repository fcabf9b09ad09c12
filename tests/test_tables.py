"""Tables: the best of a row, networks told apart, names with odd letters, equal pictures."""

import dataclasses
import math

from smnet import tables
from smnet.evaluation import Score
from smnet.results import Run


def score_of(name="a", noisy=20.0, ours=30.0, ssim=0.9) -> Score:
    return Score(
        name, psnr={"noisy": noisy, "SMNet": ours}, ssim={"noisy": 0.5, "SMNet": ssim}, seconds=0.1
    )


def run_of(weights, mode="B", sigma=25, protocol="", name="Set12", shuffle=1, scores=None, **score):
    """A run of one picture, if no scores are given."""
    return Run(
        set=name,
        sigma=sigma,
        mode=mode,
        weights=weights,
        epoch=None,
        width=16,
        shuffle=shuffle,
        noise_range=None,
        protocol=protocol,
        scores=scores or [score_of(**score)],
    )


def ours_in(runs) -> set[str]:
    return {
        method
        for row in tables.table_rows(runs).values()
        for method in row
        if method.startswith("ours")
    }


# ------------------------------------------------------------------------------- rows of many runs


def test_equal_figures_are_both_best_and_noisy_never_is():
    row = {"noisy": 40.0, "A": 30.004, "B": 30.001, "C": 29.0}
    cells = tables.cells(row, ["noisy", "A", "B", "C", "D"], "*{}*")
    assert cells == ["40.00", "*30.00*", "*30.00*", "29.00", ""]


def test_two_networks_of_one_path_are_told_of():
    old, new = (run_of("pretrained/gray_B.pth", ours=ours) for ours in (30.0, 31.0))
    nearly, other = run_of("pretrained/gray_B.pth", ours=30.0000004), run_of("b.pth", ours=29.0)
    assert tables.contradictions([old, nearly, other]) == []
    (line,) = tables.contradictions([old, other, new])
    assert line.startswith(
        "Set12, sigma 25, pretrained/gray_B.pth: 30.00 dB in one run and 31.00 dB"
    )


def test_two_networks_of_one_size_are_told_apart_by_their_files():
    runs = [run_of("a/one.pth"), run_of("a/two.pth"), run_of("c.pth", sigma=50)]
    assert ours_in([*runs, run_of("l25.pth", mode="S")]) == {
        "ours-B, width 16 (one)",
        "ours-B, width 16 (two)",
        "ours-B, width 16 (c)",
        "ours-S, width 16",
    }


def test_a_network_that_was_measured_twice_is_one():
    assert ours_in([run_of("a/x.pth"), run_of("a/x.pth")]) == {"ours-B, width 16"}


def test_networks_of_a_known_level_are_told_apart_by_their_folders():
    known = [
        run_of(f"{folder}/{level}.pth", mode="S", sigma=level)
        for folder, level in (("a", 25), ("b", 25), ("b", 50))
    ]
    assert ours_in(known) == {"ours-S, width 16 (a)", "ours-S, width 16 (b)"}
    assert ours_in(known[1:]) == {"ours-S, width 16"}  # a file for each sigma


def test_epochs_of_a_known_level_are_told_apart_by_their_files():
    epochs = [run_of(f"a/{name}.pth", mode="S") for name in ("L25_5", "L25_50")]
    assert ours_in(epochs) == {"ours-S, width 16 (L25_5)", "ours-S, width 16 (L25_50)"}


def test_files_of_one_name_are_told_apart_by_their_paths():
    assert ours_in([run_of("a/x.pth"), run_of("b/x.pth")]) == {
        "ours-B, width 16 (a/x.pth)",
        "ours-B, width 16 (b/x.pth)",
    }
    names = tables.short_names(["a/x.jsonl", "b/x.jsonl", "b/y.jsonl"])
    assert list(names.values()) == ["a/x.jsonl", "b/x.jsonl", "y"]


def test_folded_networks_are_labelled():
    runs = [run_of("a.pth"), run_of("b.pth", shuffle=2), run_of("c.pth", shuffle=3)]
    assert ours_in(runs) == {
        "ours-B, width 16",
        "ours-B, width 16 folded",
        "ours-B, width 16 folded 3x3",
    }


def test_real_noise_has_a_row():
    rows = tables.table_rows([run_of("r.pth", mode="R", sigma=None)])
    assert "| real noise |" in tables.markdown(rows)


def test_protocols_have_rows_of_their_own():
    clipped = run_of("x.pth", protocol="clip, y channel", noisy=21.0, ours=32.0)
    rows = tables.table_rows([run_of("x.pth"), clipped])
    theirs, ours = rows[("Set12", 25, "")], rows[("Set12", 25, "clip, y channel")]
    assert theirs["noisy"] == 20.0 and theirs["DnCNN"] == 30.43
    # The paper's figures cannot be compared with it.
    assert ours == {"noisy": 21.0, "ours-B, width 16": 32.0}
    assert "| sigma 25, clip, y channel |" in tables.markdown(rows)


def test_equal_pictures_have_no_figure():
    nothing = run_of("x.pth", sigma=1, noisy=math.inf, ours=math.inf)
    rows = tables.table_rows([run_of("x.pth", sigma=0, noisy=math.inf), nothing])
    lines = tables.markdown(rows).splitlines()
    assert lines[2:] == ["| Set12 | sigma 0 | **30.00** |", "| Set12 | sigma 1 |  |"]


def test_bars_and_line_breaks_in_names_leave_the_markdown_table_whole():
    lines = tables.markdown(tables.table_rows([run_of("x.pth", name="a|b\nc")])).splitlines()
    assert len(lines) == 3 and lines[2].startswith(r"| a\|b\nc | sigma 25 |")


def test_names_are_escaped_for_latex():
    text = tables.latex(tables.table_rows([run_of("x.pth", name="a_$1\\{b}^~\nc")]))
    assert r"a\_\$1\textbackslash{}\{b\}\textasciicircum{}\textasciitilde{}" in text
    assert text.count("\\\\\n") == 2


# ------------------------------------------------------------------------------ the table of a run


def test_equal_pictures_are_called_equal():
    text = tables.table(run_of("x.pth", noisy=math.inf, scores=[score_of(noisy=math.inf)] * 2))
    assert text.count("equal 0.5000") == 3  # two pictures and the mean
    assert "inf" not in text and "SMNet takes 0.10 s per picture" in text


def test_there_is_no_mean_where_some_pictures_are_equal():
    text = tables.table(run_of("x.pth", scores=[score_of(noisy=math.inf), score_of("b")]))
    assert "noisy: no mean PSNR, since 1 of 2 pictures equal the clean ones" in text
    assert "inf" not in text and "gains" not in text


def test_a_picture_that_is_too_small_has_no_ssim():
    text = tables.table(run_of("x.pth", scores=[score_of(ssim=math.nan), score_of("b")]))
    assert "the mean SSIM is of 1 of 2 pictures" in text and "nan" not in text


def test_line_breaks_in_names_leave_the_table_whole():
    text = tables.table(run_of("x.pth", name="s\nt", scores=[score_of("a\nb")]))
    assert r"s\nt, sigma 25" in text and r"a\nb" in text and text.count("\n") == 6


def test_a_table_says_for_which_sigmas_the_network_was_trained_if_not_for_this():
    for noise_range, sigma, said in (
        ((0, 55), 75, "trained at sigma 0 to 55"),
        ((15, 15), 25, "trained at sigma 15"),
        ((0, 55), 50, None),
        ((25, 25), 25, None),
        (None, 25, None),
    ):
        run = dataclasses.replace(run_of("b.pth", sigma=sigma), noise_range=noise_range)
        heading = tables.heading(run)
        assert (said in heading) if said else ("trained" not in heading), heading
