"""Downloading, from a server on this machine that misbehaves."""

import hashlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import download
from smnet import datasets, images
from utils import SMNetError

CONTENT = {f"{i:02d}.png": bytes([i]) * (1000 + i) for i in range(6)}
SET12 = datasets.SETS["Set12"]


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `tricks` maps a file's name to what is done instead, one after the other."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tricks: dict[str, list[str]] = {}
        self.asked = Counter()
        self.address = f"http://127.0.0.1:{self.server_address[1]}/raw"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("/")[-1]
        assert self.path == f"/raw/{SET12.repository}/{SET12.commit}/data/Set12/{name}"
        self.server.asked[name] += 1
        tricks = self.server.tricks.get(name, [])
        trick = (tricks.pop(0) if len(tricks) > 1 else tricks[0]) if tricks else "fine"
        if trick.isdigit():
            self.send_error(int(trick))
            return
        content = CONTENT[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + (50 if trick == "long" else 0)))
        self.end_headers()
        if trick == "wrong":
            content = bytes(len(content))
        elif trick == "long":
            content += bytes(50)
        elif trick in ("cut", "stall"):
            content = content[:500]
        self.wfile.write(content)
        self.wfile.flush()
        if trick == "stall":
            time.sleep(1.5)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A running server, a catalogue of what it has, short pauses, and a folder of its own."""
    rows = [
        f"Set12,data/Set12/{name},{len(c)},{hashlib.sha256(c).hexdigest()}"
        for name, c in CONTENT.items()
    ]
    catalogue = tmp_path / "datasets.csv"
    catalogue.write_text("\n".join(["set,path_in_repository,bytes,sha256", *rows]) + "\n")
    monkeypatch.setattr(datasets, "CATALOGUE", catalogue)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.chdir(tmp_path)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def fetch(server, *words) -> int:
    return download.main(["Set12", "--mirror", server.address, *words])


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_fetched_once(server, tmp_path, capsys):
    assert fetch(server) == 0
    assert files(tmp_path / "data" / "Set12") == CONTENT
    assert "Set12: 6 of 6 files in data/Set12, 6 of them fetched" in capsys.readouterr().out
    assert fetch(server) == 0
    assert "0 of them fetched" in capsys.readouterr().out
    assert server.asked == Counter(dict.fromkeys(CONTENT, 1))


def test_only_what_is_missing_or_wrong_is_fetched_again(server, tmp_path):
    fetch(server)
    folder = tmp_path / "data" / "Set12"
    (folder / "00.png").unlink()
    (folder / "01.png").write_bytes(b"short")
    (folder / "02.png").write_bytes(bytes(len(CONTENT["02.png"])))  # of the right size
    assert fetch(server) == 0
    assert files(folder) == CONTENT
    assert [server.asked[name] for name in sorted(CONTENT)] == [2, 2, 2, 1, 1, 1]


def test_a_mistyped_host_is_one_line(server, capsys):
    assert download.main("Set12 --mirror http://a..b".split()) == 1
    assert "no connection to a..b" in capsys.readouterr().err


@pytest.mark.parametrize("trick", ["503", "429", "cut", "wrong", "long", "stall"])
def test_trouble_that_passes_is_overcome(server, tmp_path, trick):
    server.tricks = {"03.png": [trick, trick, "fine"]}
    assert fetch(server) == 0
    assert files(tmp_path / "data" / "Set12") == CONTENT
    assert server.asked["03.png"] == 3


@pytest.mark.parametrize(
    ("trick", "attempts", "said"),
    [
        ("404", 1, "answers 404 Not Found, to http://127.0.0.1"),
        ("503", 4, "answers 503 Service Unavailable (4 attempts)"),
        ("cut", 4, "broke off (4 attempts)"),
        ("wrong", 4, "something else than the file"),
        ("stall", 4, "stalled (4 attempts)"),
    ],
)
def test_trouble_that_stays_is_named_and_the_rest_fetched(
    server, tmp_path, capsys, trick, attempts, said
):
    server.tricks = {"03.png": [trick]}
    folder = tmp_path / "data" / "Set12"
    folder.mkdir(parents=True)
    (folder / "03.png").write_bytes(b"an earlier version")
    assert fetch(server) == 1
    out, err = capsys.readouterr()
    assert "5 of 6 files" in out and "data/Set12/03.png" in err and said in err
    assert err.count("\n") == 2 and "same command again" in err
    assert files(folder) == CONTENT | {
        "03.png": b"an earlier version"
    }  # nothing half-written, nothing left behind
    assert server.asked["03.png"] == attempts


def test_no_server_is_one_line(server, capsys):
    server.shutdown()
    server.server_close()
    assert fetch(server) == 1
    err = capsys.readouterr().err
    first = "data/Set12/00.png, data/Set12/01.png, data/Set12/02.png and 3 more"
    assert f"{first}: no connection to 127.0.0.1" in err
    assert err.count("\n") == 2


def test_paths_out_of_the_folder_are_refused(server, tmp_path):
    for path in (
        "data/Set12/../../evil.png",
        "/etc/evil",
        "data/Set12/..\\evil",
        "data/Other/evil.png",
    ):
        datasets.CATALOGUE.write_text(f"set,path_in_repository,bytes,sha256\nSet12,{path},1,00\n")
        with pytest.raises(SMNetError, match="is not a path below data/Set12"):
            fetch(server)
    assert not (tmp_path / "data").exists() and not server.asked


def test_the_list_and_the_catalogue_agree(capsys):
    assert download.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["Set12", "12"],
        ["Set68", "68"],
        ["CBSD68", "68"],
        ["Kodak24", "24"],
        ["McMaster", "18"],
        ["BSDS500", "400"],
        ["PolyU", "200"],
        ["PolyU_full", "70"],
        ["CC", "30"],
        ["Unsplash", "30"],
    ]
    targets = [file.target for name in datasets.SETS for file in datasets.files_of(name, "data")]
    assert len(set(targets)) == 920
    assert {str(target.parent) for target in targets} == {
        *(f"data/{name}" for name in datasets.SETS if name != "BSDS500"),
        "data/BSDS500/train",
        "data/BSDS500/test",
    }


@pytest.mark.parametrize(
    "words", ["", "Nowhere", "Set12 --mirror ftp://x", "Set12 --mirror http://", "Set12 --jobs 0"]
)
def test_wrong_arguments_exit_with_2(words):
    with pytest.raises(SystemExit) as caught:
        download.main(words.split())
    assert caught.value.code == 2


def test_names_are_found_in_any_case():
    assert download.wanted_sets(["set12", "POLYU", "Set12"]) == ["Set12", "PolyU"]
    assert download.wanted_sets(["all"]) == list(datasets.SETS)
    for path, name in (("Set12", "Set12"), ("data/CC", "CC"), ("data/BSDS500/train", "BSDS500")):
        with pytest.raises(
            SMNetError, match=f"no folder {path}; fetch it: python download.py {name}"
        ):
            images.find_pictures(path)
