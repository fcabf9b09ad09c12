"""smnet/photos: metadata are kept, or their loss is noted."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from photo_files import (
    DEEP_GRAY,
    DEEP_RGB,
    EXIF,
    GRAY,
    ICC,
    LOSSLESS,
    RGB,
    jpeg_segment,
    pillow,
    png_16_bit,
    png_with,
    tiff,
    tiff_with_folders,
    xmp_with,
)  # fmt: skip
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

import denoise
from smnet.photos import tiff_writer, writing
from smnet.photos.reading import read_photo


def test_jpeg_keeps_its_metadata_and_takes_a_quality(work, unchanged):
    options = dict(
        quality=90,
        exif=EXIF,
        icc_profile=ICC,
        dpi=(240, 240),
        subsampling=0,
        progressive=True,
        comment=b"hello",
    )
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", **options))
    for quality in ("30", "98"):
        assert denoise.main(["a.jpg", "-o", f"{quality}.jpg", "--quality", quality]) == 0
    with Image.open("a.jpg") as old, Image.open("98.jpg") as new:
        for key in ("exif", "icc_profile", "dpi", "comment", "progressive"):
            assert new.info.get(key) == old.info.get(key), key
        assert JpegImagePlugin.get_sampling(new) == 0
        assert np.abs(np.asarray(new).astype(int) - np.asarray(old)).mean() < 2
    assert (work / "30.jpg").stat().st_size < (work / "98.jpg").stat().st_size / 2


def test_noise_does_not_cost_a_progressive_jpeg_its_metadata(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    options = dict(exif=EXIF, icc_profile=ICC, subsampling=0, progressive=True)
    (tmp_path / "a.jpg").write_bytes(pillow(noise, "JPEG", quality=50, **options))
    photo = read_photo(tmp_path / "a.jpg")
    assert writing.write_photo(tmp_path / "b.jpg", photo, noise, quality=94) == []
    with Image.open(tmp_path / "b.jpg") as written:
        assert written.info["exif"] and written.info["progressive"]
        assert written.info["icc_profile"] == ICC


@pytest.mark.parametrize("target", ["a_denoised.png", "a.tif", "gray.webp"])
def test_what_turns_from_gray_to_rgb_loses_the_profile_for_gray(target, work, unchanged, capsys):
    for_gray = bytes(16) + b"GRAY" + bytes(108)
    profile, dots = (
        (b"iCCP", b"x\0\0" + zlib.compress(for_gray)),
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
    )
    (work / "a.png").write_bytes(
        png_16_bit(np.dstack([DEEP_GRAY, DEEP_GRAY[::-1]]), 4, profile, dots)
    )
    (work / "gray.png").write_bytes(pillow(GRAY, "PNG", icc_profile=for_gray))
    assert denoise.main(["gray.png" if target == "gray.webp" else "a.png", "-o", target]) == 0
    said = capsys.readouterr().out
    assert "; its colour profile, for gray, is left out" in said and ("becomes RGBA" in said) == (
        target != "gray.webp"
    )
    new = read_photo(target)
    assert (
        "icc_profile" not in new.metadata
        and b"iCCP" not in new.png_chunks
        and new.pixels.shape[2] == 3
    )
    if target != "gray.webp":
        assert [round(value) for value in new.metadata["dpi"]] == [300, 300]
        np.testing.assert_array_equal(new.pixels, np.dstack([DEEP_GRAY] * 3))
        np.testing.assert_array_equal(new.alpha, DEEP_GRAY[::-1])


def test_what_turns_from_gray_to_rgb_keeps_a_profile_for_rgb(work, unchanged, capsys):
    for_rgb = bytes(16) + b"RGB " + bytes(108)
    (work / "a.png").write_bytes(pillow(GRAY, "PNG", icc_profile=for_rgb))
    assert denoise.main(["a.png", "-o", "a.webp"]) == 0
    assert (
        "profile" not in capsys.readouterr().out
        and read_photo("a.webp").metadata["icc_profile"] == for_rgb
    )


@pytest.mark.parametrize("samples", [GRAY, DEEP_GRAY], ids=["8 bits", "16 bits"])
def test_photoshop_layers_and_thumbnails_do_not_go_on_showing_the_noisy_picture(
    work, unchanged, capsys, samples
):
    def resource(number: int, name: bytes, data: bytes) -> bytes:
        name = bytes([len(name)]) + name
        parts = (
            name + bytes(len(name) % 2),
            struct.pack(">I", len(data)),
            data + bytes(len(data) % 2),
        )
        return b"8BIM" + struct.pack(">H", number) + b"".join(parts)

    thumbnail, captions = (
        resource(1036, b"", b"noisy"),
        resource(1028, b"text", b"\x1c\x02x\0\x03sea"),
    )
    for name, resources, left in (
        ("a", captions + thumbnail + captions, captions * 2),
        ("b", thumbnail, None),
    ):
        tags = [(34377, 1, len(resources), resources, True), (37724, 7, 6, b"layers", True)]
        (work / f"{name}.tif").write_bytes(tiff(samples, extratags=tags))
        assert denoise.main([f"{name}.tif"]) == 0
        assert capsys.readouterr().out.endswith("; its Photoshop layers are left out\n")
        with Image.open(f"{name}_denoised.tif") as new:
            assert (
                37724 not in new.tag_v2
                and new.tag_v2.get(34377) == left
                and (34377 in new.tag_v2) == (left is not None)
            )


@pytest.mark.parametrize("samples", [GRAY, DEEP_GRAY], ids=["8 bits", "16 bits"])
def test_a_resolution_without_unit_stays_without(work, unchanged, samples):
    tifffile.imwrite(
        "a.tif", samples, photometric="minisblack", resolution=(3, 2), resolutionunit=1
    )
    assert denoise.main(["a.tif"]) == denoise.main(["a.tif", "-o", "a.png"]) == 0
    with Image.open("a_denoised.tif") as new:
        assert [new.tag_v2[tag] for tag in (282, 283, 296)] == [3, 2, 1]
    with Image.open("a.png") as new:
        assert "dpi" not in new.info


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest's filters take the place of ours
@pytest.mark.parametrize("target", ["b.tif", "b.png", "b.jpg"])
def test_a_dangling_interoperability_pointer_costs_no_exif(target, work, unchanged, capsys):
    (work / "a.tif").write_bytes(tiff_with_folders(GRAY, turned=1, order="<", dangling=True))
    exif = b"Exif\0\0" + (work / "a.tif").read_bytes()
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif))
    for source in ("a.tif", "a.jpg"):
        assert denoise.main([source, "-o", target, "--overwrite"]) == 0
        assert "could not be kept" not in capsys.readouterr().out
        with Image.open(target) as new:
            assert new.getexif()[315] == "é" * 5 and new.getexif().get_ifd(34665)[33434] == 0.02


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("samples", [GRAY, DEEP_GRAY], ids=["8 bits", "16 bits"])
def test_tiff_keeps_exif_folders_and_foreign_tags(work, unchanged, capsys, samples, order):
    (work / "a.tif").write_bytes(tiff_with_folders(samples, turned=6, order=order))
    assert denoise.main(["a.tif", "-o", "b.tif"]) == 0
    files = [
        io.BytesIO((work / name).read_bytes()) for name in ("a.tif", "b.tif")
    ]  # by name Pillow does not turn all of them
    with Image.open(files[0]) as old, Image.open(files[1]) as new:
        for image in (old, new):
            exif = image.getexif()
            assert (
                exif.get_ifd(34665) == {33434: 0.02}
                and exif.get_ifd(34853) == {1: "N"}
                and exif[274] == 6
            )
            assert image.tag_v2[33550] == (0.5, 0.25, 0) and image.tag_v2[315] == "é" * 5
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
        old.save(
            "packed.tif",
            compression="tiff_lzw",
            tiffinfo={315: "é".encode("latin-1"), 33550: (0.5, 0.25, 0.0)},
        )
    assert denoise.main(["packed.tif"]) == 0
    with Image.open("packed_denoised.tif") as new:
        assert new.tag_v2[315] == "é" and new.tag_v2[33550] == (0.5, 0.25, 0)
    assert denoise.main(["a.tif", "-o", "b.png"]) == 0  # another format: upright
    assert "PNG cannot hold its TIFF tag 33550" in capsys.readouterr().out
    with Image.open("b.png") as new:
        np.testing.assert_array_equal(np.asarray(new), np.rot90(samples, -1))
        assert new.getexif().get_ifd(34665) == {33434: 0.02} and 274 not in new.getexif()


@pytest.mark.parametrize("target", ["b.png", "b.tif"])
def test_a_picture_without_a_place_gets_no_folder_for_one(work, unchanged, target):
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a maker"
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif.tobytes()))
    assert denoise.main(["a.jpg", "-o", target]) == 0
    with Image.open(target) as new:
        tags = set(new.getexif())
        assert new.getexif()[271] == "a maker" and not tags & {34665, 34853}


def test_odd_metadata_never_cost_the_picture(work, unchanged, capsys, monkeypatch):
    tags = tiff_writer.encode_samples
    monkeypatch.setattr(
        tiff_writer,
        "encode_samples",
        lambda photo, pixels, given: 1 / 0 if given else tags(photo, pixels, given),
    )
    (work / "a.tif").write_bytes(LOSSLESS["deep turned.tif"])
    assert denoise.main(["a.tif"]) == 0
    assert "its metadata could not be kept (division by zero)" in capsys.readouterr().out
    np.testing.assert_array_equal(read_photo("a_denoised.tif").pixels, np.rot90(DEEP_RGB, -1))
    monkeypatch.setattr(writing, "for_format", lambda photo, kind: 1 / 0)
    assert denoise.main(["a.tif", "-o", "a.png"]) == 0
    assert "its metadata could not be kept (division by zero)" in capsys.readouterr().out
    np.testing.assert_array_equal(read_photo("a.png").pixels, np.rot90(DEEP_RGB, -1))


def test_deep_png_keeps_what_it_says_as_tiff(work, unchanged, capsys):
    dots = struct.pack(">IIB", 11811, 11811, 1)  # a metre
    (work / "a.png").write_bytes(
        png_16_bit(DEEP_RGB, 2, (b"pHYs", dots), (b"iCCP", b"x\0\0" + zlib.compress(ICC)))
    )
    assert denoise.main(["a.png", "-o", "a.tif"]) == 0
    assert "metadata" not in capsys.readouterr().out
    with Image.open("a.tif") as new:
        assert new.info["icc_profile"] == ICC and [round(dots) for dots in new.info["dpi"]] == [
            300,
            300,
        ]


def test_damaged_and_long_texts_of_png(work, unchanged):
    damaged = struct.pack(">I", 6) + b"tEXta\0text" + b"1234"
    long = b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 2_000_000)
    content = png_16_bit(DEEP_RGB, 2, long)
    end = content.index(b"IEND") - 4
    (work / "a.png").write_bytes(content[:end] + damaged + content[end:])
    assert denoise.main(["a.png"]) == 0
    with Image.open("a_denoised.png") as new:
        new.load()
        assert len(new.info["XML:com.adobe.xmp"]) == 2_000_000


def test_xmp_does_not_turn_an_upright_picture_again(work, unchanged):
    exif = Image.Exif()
    exif[274] = 6
    xmp = xmp_with('xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"')
    Image.fromarray(RGB).save("a.webp", lossless=True, exif=exif, xmp=xmp)
    for name in ("a.png", "a.tif"):
        assert denoise.main(["a.webp", "-o", name]) == 0
        with Image.open(name) as new:
            np.testing.assert_array_equal(
                np.asarray(ImageOps.exif_transpose(new)), np.rot90(RGB, -1)
            )


@pytest.mark.parametrize("order", "<>")
def test_captions_of_tiff_are_kept_as_whatever_they_are_stored(work, unchanged, order):
    captions = b"\x1c\x02\x05\0\x05Hello\0\0"  # whole 32-bit integers, as most programs store them
    numbers = struct.unpack(f"{order}3I", captions)
    for name, tag in (("a", (33723, 4, 3, numbers, True)), ("b", (33723, 7, 12, captions, True))):
        (work / f"{name}.tif").write_bytes(tiff(RGB, byteorder=order, extratags=[tag]))
        assert denoise.main([f"{name}.tif"]) == 0
        with Image.open(f"{name}_denoised.tif") as new:
            assert new.tag_v2[33723] == captions


def exif_with_thumbnail(thumbnail: bytes) -> bytes:
    """EXIF of two folders, the first with ResolutionUnit 2."""

    def folder(entries: dict[int, tuple[int, int]], following: int) -> bytes:
        listed = b"".join(
            struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in entries.items()
        )
        return struct.pack("<H", len(entries)) + listed + struct.pack("<I", following)

    first = folder({274: (3, 1), 296: (3, 2)}, 8 + 30)
    second = folder({513: (4, 8 + 30 + 30), 514: (4, len(thumbnail))}, 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + thumbnail


def test_thumbnails_of_webp_do_not_go_on_showing_the_noisy_picture(work, unchanged):
    exif = exif_with_thumbnail(pillow(RGB, "JPEG"))
    (work / "a.webp").write_bytes(pillow(RGB, "WEBP", exif=exif, lossless=True))
    with Image.open("a.webp") as old:
        assert old.getexif().get_ifd(ExifTags.IFD.IFD1)
    assert denoise.main(["a.webp"]) == 0
    with Image.open("a_denoised.webp") as new:
        assert not new.getexif().get_ifd(ExifTags.IFD.IFD1) and new.getexif()[296] == 2


def test_claims_of_origin_are_left_out_with_a_note(work, unchanged, capsys):
    jpeg = pillow(RGB, "JPEG")
    (work / "a.jpg").write_bytes(jpeg[:2] + jpeg_segment(0xEB, b"JP..jumb") + jpeg[2:])
    (work / "b.png").write_bytes(png_with(b"caBX", b"jumb") + bytes(20))
    assert denoise.main(["a.jpg", "b.png"]) == 0
    said = capsys.readouterr().out
    assert "its APP11 data are left out" in said and "its caBX data are left out; 20 bytes " in said


def test_captions_of_jpeg_are_kept(work, unchanged):
    captions = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x08\x1c\x02x\0\x03sea"
    segment = b"\xff\xed" + struct.pack(">H", len(captions) + 2) + captions
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", extra=segment))
    assert denoise.main(["a.jpg"]) == 0
    assert segment in (work / "a_denoised.jpg").read_bytes()


def test_thumbnails_of_jpeg_do_not_go_on_showing_the_noisy_picture(work, unchanged):
    thumbnail = pillow(RGB, "JPEG")
    exif = exif_with_thumbnail(thumbnail)
    number, captions = (b"8BIM" + struct.pack(">HHI", n, 0, 4) for n in (1036, 1028))
    resources = b"Photoshop 3.0\0" + number + b"seen" + captions + b"text"
    segment = b"\xff\xed" + struct.pack(">H", len(resources) + 2) + resources
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif, extra=segment))
    with Image.open("a.jpg") as old:
        assert old.getexif().get_ifd(ExifTags.IFD.IFD1)[514] == len(thumbnail)
    assert denoise.main(["a.jpg"]) == 0
    with Image.open("a_denoised.jpg") as new:
        assert not new.getexif().get_ifd(ExifTags.IFD.IFD1) and new.getexif()[296] == 2
    data = (work / "a_denoised.jpg").read_bytes()
    assert b"8BIM\x04\x04" in data and b"8BIM\x04\x0c" not in data


@pytest.mark.parametrize("target", ["b.jpg", "b.tif", "b.png", "b.webp"])
def test_texts_in_exifs_folder_keep_their_letters(target, work, unchanged):
    exif = Image.Exif()
    exif[34665] = {42032: "José".encode("latin-1"), 42036: "Größe".encode()}
    (work / "a.jpg").write_bytes(pillow(RGB, "JPEG", exif=exif.tobytes()))
    assert denoise.main(["a.jpg", "-o", "a.tif"]) == 0
    for source in ("a.jpg", "a.tif"):
        assert denoise.main([source, "-o", target, "--overwrite"]) == 0
        with Image.open(target) as new:
            found = new.getexif().get_ifd(34665)
        assert found[42032] == "José" and found[42036].encode("latin-1").decode() == "Größe"


def jpeg_with(*segments: bytes, behind: bytes = b"") -> bytes:
    """A JPEG file with further segments, and bytes behind it."""
    whole = pillow(RGB, "JPEG")
    return whole[:2] + b"".join(segments) + whole[2:] + behind


def xmp_segment(attributes: str) -> bytes:
    return jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_with(attributes))


GAIN = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
MOTION = 'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
EXTENDED = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="0A0B"'
RATING = 'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"'
VIDEO = struct.pack(">I", 24) + b"ftypmp42" + bytes(40)
EXTENSION = jpeg_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0A0B" * 8 + bytes(40))
BESIDE_JPEG = {
    "its gain map is left out": (GAIN, (), pillow(GRAY, "JPEG")),
    "the video behind it is left out": (MOTION, (), VIDEO),
    "its extended XMP is left out": (EXTENDED, (EXTENSION,), b""),
    "the picture behind it is left out": ("", (), pillow(GRAY, "JPEG")),
    "9 bytes behind it are left out": ("", (), b"something"),
}


@pytest.mark.parametrize("note", BESIDE_JPEG)
def test_what_lies_beside_a_jpeg_is_noted_and_no_longer_claimed(work, unchanged, capsys, note):
    claim, segments, behind = BESIDE_JPEG[note]
    content = jpeg_with(xmp_segment(f"{claim} {RATING}"), *segments, behind=behind)
    (work / "a.jpg").write_bytes(content)
    assert denoise.main(["a.jpg"]) == 0
    assert f"; {note}\n" in capsys.readouterr().out
    with Image.open("a_denoised.jpg") as new:
        xmp = new.info["xmp"]
    assert b'Rating="4"' in xmp
    for word in (b"hdrgm", b"MotionPhoto", b"HasExtendedXMP"):
        assert word not in xmp


def test_other_xmp_stays_to_the_byte_and_padding_is_no_loss(work, unchanged, capsys):
    (work / "a.jpg").write_bytes(jpeg_with(xmp_segment(RATING), behind=bytes(100)))
    assert denoise.main(["a.jpg"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert read_photo("a_denoised.jpg").metadata["xmp"] == xmp_with(RATING)


def test_xmp_that_cannot_be_mended_is_left_out(work, unchanged, capsys):
    broken = xmp_segment(GAIN).replace(b"</rdf:RDF>", b"<rdf:RDF/>")
    (work / "a.jpg").write_bytes(jpeg_with(broken, behind=pillow(GRAY, "JPEG")))
    assert denoise.main(["a.jpg"]) == 0
    assert "; its XMP cannot be read and is left out\n" in capsys.readouterr().out
    assert "xmp" not in read_photo("a_denoised.jpg").metadata


@pytest.mark.parametrize("target", ["a.tif", "a.jpg", "a.webp"])
def test_what_png_says_of_its_colours_is_noted_where_it_is_lost(work, unchanged, capsys, target):
    (work / "hdr.png").write_bytes(png_with(b"cICP", bytes([9, 16, 0, 1])))
    (work / "dark.png").write_bytes(png_with(b"gAMA", struct.pack(">I", 100_000)))
    for name, said in (
        ("hdr.png", "cannot hold its HDR colour space (cICP)"),
        ("dark.png", "cannot hold its gamma (gAMA)"),
    ):
        assert denoise.main([name, "-o", target, "--overwrite"]) == 0
        assert said in capsys.readouterr().out
        assert denoise.main([name, "--overwrite"]) == 0
        assert "cannot hold" not in capsys.readouterr().out


def test_exif_in_a_text_of_png_goes_into_other_formats(work, unchanged, capsys):
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n 99\n{EXIF.tobytes().hex()}\n", zip=True)
    Image.fromarray(RGB).save("a.png", pnginfo=info)
    for target in ("a.jpg", "a.tif", "a.webp"):
        assert denoise.main(["a.png", "-o", target]) == 0
        assert "texts" not in capsys.readouterr().out
        with Image.open(target) as new:
            assert new.size == (30, 37) and new.getexif()[271] == "a camera"
            assert new.getexif().get(274, 1) == 1
    assert denoise.main(["a.png", "-o", "b.png"]) == 0  # as it lay
    np.testing.assert_array_equal(read_photo("b.png").pixels, RGB)
    assert read_photo("b.png").orientation == 6


def test_one_item_too_long_for_jpeg_does_not_cost_the_others(work, unchanged, capsys):
    exif = Image.Exif()
    exif[270], exif[274] = "x" * 70_000, 6
    Image.fromarray(RGB).save("a.png", exif=exif, icc_profile=ICC, dpi=(300, 300))
    assert denoise.main(["a.png", "-o", "a.jpg"]) == 0
    assert "; its EXIF is left out: JPEG holds at most 65 KB of it\n" in capsys.readouterr().out
    with Image.open("a.jpg") as new:
        assert new.info["icc_profile"] == ICC and new.size == (30, 37)
        assert [round(dots) for dots in new.info["dpi"]] == [300, 300]
        assert not new.getexif()


def test_a_thumbnail_in_png_does_not_go_on_showing_the_noisy_picture(work, unchanged):
    thumbnail = struct.pack("<HHHII", 1, 259, 3, 1, 6) + bytes(4)
    first = struct.pack("<HHHII", 1, 274, 3, 1, 1) + struct.pack("<I", 26)
    exif = b"II*\0" + struct.pack("<I", 8) + first + thumbnail
    (work / "a.png").write_bytes(png_with(b"eXIf", exif))
    with Image.open("a.png") as old:
        assert old.getexif().get_ifd(ExifTags.IFD.IFD1)
    assert denoise.main(["a.png"]) == 0
    with Image.open("a_denoised.png") as new:
        assert not new.getexif().get_ifd(ExifTags.IFD.IFD1) and new.getexif()[274] == 1
