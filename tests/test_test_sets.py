"""smnet/test_sets.py: what the pictures of a folder are called."""

from smnet.test_sets import files_in


def test_pictures_are_named_without_their_endings_where_those_names_differ(tmp_path):
    for name in ("a.png", "b.jpg", "b.png", "in/a.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [file.name for file in files_in(tmp_path)] == ["a", "b.jpg", "b.png", "in/a"]
