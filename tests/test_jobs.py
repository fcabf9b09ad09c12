"""smnet/jobs.py: every picture asked for is denoised once, and nothing is replaced unasked."""

import errno
import os
from pathlib import Path

import pytest
from photo_files import LOSSLESS, RGB, pillow

import denoise
from smnet.jobs import expand_patterns, find_jobs
from smnet.photos.reading import read_photo
from utils import SMNetError


def test_a_result_never_replaces_its_picture_or_another_result(work, capsys):
    for folder in ("a", "b"):
        (work / folder).mkdir()
        (work / folder / "x.png").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["a/x.png", "-o", "a", "--overwrite"]) == 1
    assert "would replace the picture" in capsys.readouterr().err
    assert denoise.main(["a/x.png", "b/x.png", "-o", "out"]) == 1
    assert "already the result of another picture" in capsys.readouterr().err
    assert (work / "a" / "x.png").read_bytes() == LOSSLESS["gray.png"]


def test_a_result_never_replaces_its_picture_under_another_name(work, capsys):
    """As IMG.JPG and img.jpg are one file on many disks."""
    (work / "x.png").write_bytes(LOSSLESS["gray.png"])
    os.link("x.png", "other.png")
    assert denoise.main(["x.png", "-o", "other.png", "--overwrite"]) == 1
    assert "would replace the picture" in capsys.readouterr().err


def test_a_result_that_came_to_be_meanwhile_is_not_replaced(work, capsys, monkeypatch):
    (work / "x.png").write_bytes(LOSSLESS["gray.png"])
    read = denoise.read_photo

    def slowly(path):
        (work / "x_denoised.png").write_text("somebody else's")
        return read(path)

    monkeypatch.setattr(denoise, "read_photo", slowly)
    assert denoise.main(["x.png"]) == 1
    assert "x_denoised.png already exists" in capsys.readouterr().err
    assert (work / "x_denoised.png").read_text() == "somebody else's"
    assert denoise.main(["x.png", "--overwrite"]) == 0


def test_odd_names_and_folders(work, unchanged, capsys, monkeypatch):
    folder = work / "in"
    folder.mkdir()
    for name in ("a.png", "a.bmp", "two\nlines.png", "x" * 245 + ".png"):
        (folder / name).write_bytes(LOSSLESS["gray.png" if name[-1] == "g" else "gray.bmp"])
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "closed").mkdir()
    scandir = os.scandir

    def closed(path="."):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    for _ in range(2):  # the results lie in the folder itself the second time
        assert denoise.main(["in", "in/a.png", "-o", "in/out", "--compare", "--overwrite"]) == 1
        said = capsys.readouterr()
        assert "denoised 3 pictures, skipped 4" in said.out and said.err.count("\n") == 4
        assert "in/closed: this folder cannot be read (Permission denied)" in said.err
        assert (
            "in/pipe.png: is not a file" in said.err
            and "in/loop.png: " in said.err
            and "x.png" in said.err
        )
    written = {path.name for path in (folder / "out").iterdir()}
    assert written == {
        "a.png",
        "a.bmp",
        "two\nlines.png",
        "a_compare.png",
        "a.png_compare.png",
        "two\nlines_compare.png",
    }
    (work / "file").write_text("")
    with pytest.raises(SMNetError, match="file is a file; give a folder"):
        denoise.main(["in", "-o", "file"])
    for wrong in (
        "in/a.png -o a.jp2",
        "in/a.png --noiseL 25 --weights x.pth",
        "in/a.png --point 1 1",
    ):
        with pytest.raises(SystemExit) as caught:
            denoise.main(wrong.split())
        assert caught.value.code == 2


def test_a_file_is_not_taken_for_the_name_of_a_folder(work, unchanged, capsys):
    for name in ("a.png", "in/b.png", "in/c.png", "in/d.HEIC", "in/e.nef", "in/notes.txt"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(LOSSLESS["gray.png"])
    for wrong, said in (
        ("a.png in/b.png -o z.jpg", "z.jpg names one file"),
        ("in -o z.png", "name a folder by -o"),
        ("a.png -o z.heic", "pictures are written as .png,"),
        ("a.png in -o z.JP2", "give one, or make the folder"),
    ):
        with pytest.raises(SystemExit) as caught:
            denoise.main(wrong.split())
        assert caught.value.code == 2 and said in capsys.readouterr().err
    assert not [*work.glob("z*")]
    (work / "there.jpg").mkdir()
    for folder in ("results.v2", "there.jpg"):
        assert denoise.main(["a.png", "in", "-o", folder]) == 0
        said = capsys.readouterr().out
        passed_over = "ignored 2 in unsupported formats (.heic, .nef)"
        assert f"denoised 3 pictures, skipped 0, {passed_over}\n" in said
        assert sorted(path.name for path in (work / folder).iterdir()) == [
            "a.png",
            "b.png",
            "c.png",
        ]


def test_a_file_given_twice_is_taken_once(work, unchanged, capsys):
    (work / "in").mkdir()
    (work / "in" / "a.png").write_bytes(LOSSLESS["gray.png"])
    (work / "in" / "link.png").symlink_to("a.png")  # another picture, as far as its name goes
    assert (
        denoise.main(["in/a.png", str(work / "in" / "a.png"), "in/../in/a.png", "in/link.png"]) == 0
    )
    assert "denoised 2 pictures, skipped 0\n" in capsys.readouterr().out
    assert {path.name for path in (work / "in").glob("*_*")} == {
        "a_denoised.png",
        "link_denoised.png",
    }


def test_the_root_folder_has_nothing_beside_it(work, capsys):
    (work / "a.png").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["/", "a.png"]) == 1
    said = capsys.readouterr()
    assert (
        said.err == "skipped: /: the results cannot lie beside it; name a folder for them by -o\n"
    )
    assert "denoised 1 picture, skipped 1\n" in said.out


def test_names_that_do_not_say_what_a_file_is(work, unchanged, capsys):
    jpeg = pillow(RGB, "JPEG")
    for name in ("a.jfif", "a.jpe", "none", "a.foo"):
        (work / name).write_bytes(jpeg)
    (work / "png.jpg").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["a.jfif", "a.jpe", "none", "a.foo", "png.jpg"]) == 1
    said = capsys.readouterr()
    assert "skipped: none: none_denoised: pictures are written as .png, " in said.err
    assert said.err.count("; give -o such a name\n") == 2
    assert (
        said.out.count("it is a PNG file, and becomes JPEG as its name says")
        == said.out.count("it is a ")
        == 1
    )
    for name in ("a_denoised.jfif", "a_denoised.jpe", "png_denoised.jpg"):
        assert read_photo(work / name).format == "JPEG"
    assert denoise.main(["none", "-o", "a.png"]) == denoise.main(["png.jpg", "-o", "b.png"]) == 0
    assert "it is a" not in capsys.readouterr().out


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="there are no closed folders for root"
)
def test_a_folder_without_permission_is_one_line(work, capsys):
    for name in ("open/b.png", "closed/a.png"):
        (work / name).parent.mkdir()
        (work / name).write_bytes(LOSSLESS["gray.png"])
    (work / "closed").chmod(0)
    try:
        assert denoise.main(["closed", "closed/a.png", "open", "-o", "out"]) == 1
    finally:
        (work / "closed").chmod(0o700)
    said = capsys.readouterr()
    assert (
        said.err.count("Permission denied") == 2 == said.err.count("\n")
        and "denoised 1 picture, skipped 2" in said.out
    )


def test_patterns_of_names_are_expanded(work, unchanged, capsys):
    for name in ("a.png", "b.png", "[c].png", "d.bmp"):
        (work / name).write_bytes(LOSSLESS["gray.png" if name[-1] == "g" else "gray.bmp"])
    assert expand_patterns(["*.png", "d.bmp", "*.jpg"]) == [
        *("[c].png", "a.png", "b.png"),
        *("d.bmp", "*.jpg"),
    ]
    assert expand_patterns(["[c].png"]) == ["[c].png"]  # a file's own name
    assert denoise.main(["*.png", "-o", "out"]) == 0
    assert sorted(path.name for path in (work / "out").iterdir()) == ["[c].png", "a.png", "b.png"]
    with pytest.raises(SystemExit):
        denoise.main(["*.png", "-o", "one.png"])
    assert denoise.main(["*.jpg"]) == 1
    assert "skipped: *.jpg: No such file or directory\n" in capsys.readouterr().err


def test_results_of_an_earlier_run_are_no_pictures_to_denoise(work):
    for name in ("a.png", "b_denoised.png"):
        (work / name).write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["*.png"]) == 0
    assert (work / "b_denoised_denoised.png").exists()  # a picture, for there is no b.png
    assert denoise.main(["*.png"]) == 1  # both results exist
    assert denoise.main(["*.png", "--overwrite"]) == 0
    assert len([*work.glob("*.png")]) == 4


def test_results_beside_their_pictures_are_no_pictures_of_the_folder(work):
    for name in ("in/a.png", "in/b_denoised.png"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["in/a.png", "--compare"]) == 0
    assert [job.source.name for job in find_jobs(["in"]).jobs] == ["a.png", "b_denoised.png"]
    named = {job.source.name for job in find_jobs(["in"], output="out").jobs}
    assert named == {"a.png", "a_denoised.png", "a_denoised_compare.png", "b_denoised.png"}


def test_sheets_and_folders_of_an_earlier_run_are_no_pictures_to_denoise(work):
    for name in ("a.png", "mine_compare.png", "in/b.png"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(LOSSLESS["gray.png"])
    given = ["a.png", "in", "mine_compare.png"]
    assert denoise.main([*given, "--compare"]) == 0
    written = ["a_denoised.png", "a_denoised_compare.png", "in_denoised"]
    plan = find_jobs([*given, *written], sheets=["compare"], overwrite=True)
    assert [str(job.source) for job in plan.jobs] == ["a.png", "in/b.png", "mine_compare.png"]
    assert not plan.problems
    plan = find_jobs(["in", "in_denoised"], sheets=["compare"])
    assert not plan.jobs and not plan.problems and plan.already == 1
    plan = find_jobs(["in_denoised"])  # by itself it is a folder as any other
    assert [job.target.parent.name for job in plan.jobs] == ["in_denoised_denoised"] * 2


def test_results_of_a_folder_further_down_are_left_out_and_counted(work, capsys):
    for name in ("trips/100/a.png", "trips/b_denoised/c.png", "trips/_denoised/d.png"):
        (work / name).parent.mkdir(parents=True)
        (work / name).write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["trips/100"]) == 0
    capsys.readouterr()
    assert denoise.main(["trips"]) == 0
    written = {
        str(path.relative_to("trips_denoised")) for path in Path("trips_denoised").rglob("*.png")
    }
    assert written == {"100/a.png", "b_denoised/c.png", "_denoised/d.png"}  # there is no trips/b
    assert "denoised 3 pictures, skipped 0, left out 1 result of earlier runs" in (
        capsys.readouterr().out
    )
    assert find_jobs(["trips", "trips/."]).results == 1


def test_results_older_than_their_picture_are_not_taken_for_done(work, capsys):
    """The same name in another folder, or the picture edited since."""
    for folder in ("100", "101"):
        (work / folder).mkdir()
        (work / folder / "a.png").write_bytes(LOSSLESS["gray.png"])
    assert denoise.main(["100", "-o", "out"]) == 0
    assert find_jobs(["100"], output="out").already == 1
    later = (work / "out" / "a.png").stat().st_mtime + 10
    os.utime("101/a.png", (later, later))
    assert denoise.main(["101", "-o", "out"]) == 1
    assert "101/a.png: out/a.png is older, so it was made of another" in capsys.readouterr().err
    (work / "101" / "a.png").unlink()
    (work / "101" / "a.png").symlink_to("nothing")
    assert find_jobs(["101"], output="out").already == 1


def test_a_plan_takes_what_it_needs_and_changes_nothing(work):
    for name in ("in/a.png", "in/b.heic", "in/c.png", "out/c.png"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_bytes(LOSSLESS["gray.png"])
    pictures = ["in", "missing"]
    plan = find_jobs(pictures, output="out", sheets=["compare"])
    assert pictures == ["in", "missing"]
    assert [job.source for job in plan.jobs] == [Path("in/a.png"), Path("missing")]
    assert plan.jobs[0].sheets == {"compare": Path("out/a_compare.png")}
    # the picture is there, but not the sheet that is asked for
    assert plan.problems == [
        "in/c.png: out/c.png already exists; --overwrite replaces it and makes out/c_compare.png"
    ]
    assert {path.name for path in plan.others} == {"b.heic"} and plan.already == 0
    plan = find_jobs(["in"], output="out")
    assert plan.already == 1 and not plan.problems and len(plan.jobs) == 1
    plan = find_jobs(["in"], output="out", overwrite=True)
    assert plan.already == 0 and len(plan.jobs) == 2
