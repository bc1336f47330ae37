"""Tar shards: a picture is what it is in the folder, by the same name, and a shard that cannot give it says why."""

from __future__ import annotations

import io
import random
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.pictures import load_image, picture_size, require_picture
from llava.shards import open_member, open_shards, picture_folder, split_address
from tests.sharding import make_shards

ROOT = Path(__file__).parents[1]
NAMES = ("a.png", "b c/d.jpg", "b c/e.png", "ümlaut/[1]?.png", f"{'long' * 30}/{'er' * 40}.png", "gone.tar.png")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of different sizes and formats."""
    root = tmp_path / "pictures"
    for number, name in enumerate(NAMES):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (5 + number, 9, 3), dtype=np.uint8)
        Image.fromarray(values).save(file)
    return root


@pytest.fixture
def shards(folder, tmp_path) -> str:
    return make_shards(folder, [folder / name for name in NAMES], tmp_path / "s-{}.tar")


def put(file: Path, *members: tarfile.TarInfo) -> Path:
    """A tar of these members, whose content is as many zeros as their size says."""
    with tarfile.open(file, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return file


def member(name: str, **more) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in {"size": 0 if "type" in more else 700, **more}.items():
        setattr(info, key, value)
    return info


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_picture_in_any_order_is_that_of_the_folder(form, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    shards = make_shards(folder, [folder / name for name in NAMES], tmp_path / "s-{}.tar")
    for name in random.Random(0).sample(NAMES * 2, 2 * len(NAMES)):
        file, address = folder / name, picture_folder(shards) / name
        with open_member(shards, name) as stream:
            assert stream.read() == file.read_bytes()
        assert np.array_equal(load_image(address), load_image(file))
        assert picture_size(address) == picture_size(file) == load_image(str(address)).size
        require_picture(address)


def test_the_line_of_the_page_makes_shards_of_a_folder(folder, tmp_path):
    (line,) = re.findall("^find .*", (ROOT / "docs/scaling.md").read_text(encoding="utf-8"), flags=re.M)
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "same.png").hardlink_to(folder / "a.png")
    (folder / "notes.txt").write_text("no picture")
    for old, new in (("playground/data", folder), ("playground/shards", tmp_path), ("-l 10000", "-l 3")):
        assert old in line
        line = line.replace(old, str(new))
    subprocess.run(["bash", "-ec", line], check=True)
    opened = open_shards(tmp_path / "mix-{000000..000002}.tar")
    assert set(opened.members) == {*NAMES, "link.png", "same.png"}
    assert [file.name for file in opened.files] == [f"mix-00000{number}.tar" for number in range(3)]
    for name in opened.members:
        assert np.array_equal(load_image(tmp_path / "mix-*.tar" / name), load_image(folder / name))


def test_a_picture_is_a_stream_of_its_own(tmp_path):
    file = put(tmp_path / "s.tar", member("large", size=2**24), member("small"))
    with open_member(file, "large") as stream:
        assert stream.read(4) == bytes(4) and stream.tell() == 4
        assert stream.seek(0, io.SEEK_END) == 2**24 and stream.read() == b""


def test_names_are_those_that_tar_would_unpack(tmp_path):
    file = put(tmp_path / "s.tar", member("./a/b.png"), member("c//d.png"), member("e", type=tarfile.DIRTYPE))
    assert list(open_shards(file).members) == ["a/b.png", "c/d.png"]
    require_picture(file / "a/../a/b.png")


# ----------------------------------------------------------------------------------------------------------- addresses


def test_an_address_is_shards_and_a_name(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    assert split_address("x/s-{0..3}.tar/a/b.png") == (Path("x/s-{0..3}.tar"), "a/b.png")
    assert split_address(tmp_path / "folder.tar/s.tgz/a.tar") == (tmp_path / "folder.tar/s.tgz", "a.tar")
    for path in ("a/b.png", "a.tart/b.png", "photo.tar.png", tmp_path / "folder.tar/b.png"):
        assert split_address(path) is None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("s-{08..10}.tar", ["s-08", "s-09", "s-10"]),
        ("s-{8..10}.tar", ["s-8", "s-9", "s-10"]),
        ("disk{b,a}/{0..1}.tar", ["diskb/0", "diskb/1", "diska/0", "diska/1"]),
        ("s-*.tar", ["s-08", "s-09", "s-10", "s-8", "s-9"]),
        ("{one}[2]?.tar", ["{one}[2]?"]),
    ],
)
def test_patterns_name_shards_as_a_shell_does(pattern, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in {"s-08", "s-09", "s-10", "s-8", "s-9", "diska/0", "diska/1", "diskb/0", "diskb/1", "{one}[2]?"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        put(tmp_path / f"{name}.tar", member(f"{name}.png"))
    opened = open_shards(pattern)
    assert [str(file.relative_to(tmp_path)) for file in opened.files] == [f"{name}.tar" for name in names]
    assert list(opened.members) == [f"{name}.png" for name in names]


def test_a_folder_of_shards_alone_stands_for_them(folder, tmp_path):
    assert picture_folder(folder) == folder
    inside = tmp_path / "all"
    inside.mkdir()
    put(inside / "0.tar", member("a.png"))
    (inside / "questions.json").write_text("[]")
    assert picture_folder(inside) == inside / "*.tar"
    assert picture_folder(inside / "val2014") == inside / "val2014"
    assert picture_folder(inside / "val2014", home=inside) == inside / "*.tar/val2014"
    (inside / "b.PNG").touch()
    assert picture_folder(inside) == inside
    (inside / "b.PNG").unlink()
    (inside / "val2014").mkdir()
    assert picture_folder(inside) == inside and picture_folder(inside / "val2014", home=inside) == inside / "val2014"


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_a_missing_shard_is_named(shards, tmp_path):
    wider = shards.replace("0..2", "0..3")
    with pytest.raises(FileNotFoundError, match=re.escape(f"shard '{tmp_path}/s-3.tar' of '{wider}' does not exist")):
        picture_folder(wider)
    with pytest.raises(FileNotFoundError, match=r"shard '.*none-\*.tar' does not exist; fetch it"):
        picture_folder(tmp_path / "none-*.tar")
    with pytest.raises(ValueError, match=r"\{3..1\} of .* counts from 3 to 1; give the smaller"):
        picture_folder(tmp_path / "s-{3..1}.tar")


def test_a_name_in_two_shards_is_named_with_both(tmp_path):
    for number in range(2):
        put(tmp_path / f"{number}.tar", member(f"{number}.png"), member("same.png"))
    with pytest.raises(ValueError, match=r"picture 'same.png' is in '.*/0.tar' and in '.*/1.tar'; give shards that"):
        picture_folder(tmp_path / "*.tar")
    put(tmp_path / "0.tar", member("same.png"), member("./same.png"))
    with pytest.raises(ValueError, match=r"picture 'same.png' is in '.*/0.tar' and in '.*/0.tar'"):
        picture_folder(tmp_path / "0.tar")


@pytest.mark.parametrize("left", [0, 200, 512, 900, 512 + 1024, 512 + 1024 + 300, 2 * (512 + 1024)])
def test_a_shard_that_is_cut_off_is_named_wherever_it_was_cut(left, tmp_path):
    file = put(tmp_path / "s.tar", member("a.png"), member("b.png"))
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"shard '.*s.tar' is no whole tar \(.+\); fetch or make it again"):
        picture_folder(file)


def test_a_damaged_header_is_no_end(tmp_path):
    file = put(tmp_path / "s.tar", member("a.png"), member("b.png"))
    content = bytearray(file.read_bytes())
    content[512 + 1024] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no whole tar \(it has no end\)"):
        picture_folder(file)


@pytest.mark.parametrize(("kind", "name"), [("gz", "s.tar.gz"), ("bz2", "s.tar"), ("xz", "s.tgz")])
def test_a_compressed_shard_is_refused_whatever_its_name(kind, name, tmp_path):
    with tarfile.open(tmp_path / name, f"w:{kind}") as archive:
        archive.addfile(member("a.png"), io.BytesIO(bytes(700)))
    with pytest.raises(ValueError, match=rf"shard '.*{name}' is compressed.*decompress it"):
        load_image(tmp_path / name / "a.png")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_refused(kind, tmp_path):
    file = put(tmp_path / "s.tar", member("a.png"), member("b.png", type=kind, linkname="a.png"))
    with pytest.raises(ValueError, match=r"s.tar' holds 'b.png' as a link .* --dereference --hard-dereference"):
        picture_folder(file)


def test_a_picture_in_none_is_named_with_the_shards(shards):
    message = re.escape(f"picture 'b c/f.png' is in none of the 3 shards '{shards}', which hold 'a.png' and so on")
    for read in (load_image, picture_size, require_picture):
        with pytest.raises(FileNotFoundError, match=f"^{message}$"):
            read(f"{shards}/b c/f.png")


def test_a_damaged_picture_is_named_by_its_address(tmp_path):
    file = put(tmp_path / "s.tar", member("a.png"))
    for read in (load_image, picture_size):
        with pytest.raises(ValueError, match=r"image '.*/s.tar/a.png' cannot be read: it is no picture"):
            read(file / "a.png")


def test_a_shard_that_changes_is_not_read_by_an_old_index(tmp_path):
    file = put(tmp_path / "s.tar", member("a.png"))
    picture_folder(file)
    put(file, member("first.png"), member("a.png"))
    with pytest.raises(ValueError, match=r"shard '.*s.tar' has changed since it was opened; start again"):
        load_image(file / "a.png")
