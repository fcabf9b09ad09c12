"""EXIF, XMP and Photoshop's resources: what must not be taken over into a denoised picture."""

import io
import re
import struct
from xml.etree import ElementTree

PHOTOSHOP = b"Photoshop 3.0\0"  # before Photoshop's resources in a JPEG file
THUMBNAILS = (1033, 1036)  # numbers of Photoshop's resources
# XMP's names for what lies behind a JPEG or in other segments of it: gain maps, depth maps, videos,
# extended XMP.
GAIN_MAP = b"http://ns.adobe.com/hdr-gain-map/1.0/"
CLAIMS = (
    GAIN_MAP,
    b"http://ns.apple.com/HDRGainMap/1.0/",
    b"http://ns.adobe.com/xmp/note/",
    b"http://ns.google.com/photos/1.0/container/",
    b"http://ns.google.com/photos/1.0/camera/",
    b"http://ns.google.com/photos/1.0/image/",
    b"http://ns.google.com/photos/1.0/depthmap/",
    b"http://ns.google.com/photos/1.0/audio/",
    b"http://ns.google.com/photos/dd/1.0/",
)


def in_bytes(value: object) -> object:
    """A tag's value; text beyond ASCII as the bytes it was read of, for which Pillow would write
    question marks."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1", "replace")
    return value


def without_exif_thumbnail(exif: bytes) -> bytes:
    """EXIF that ends before the folder of its thumbnail, which would go on showing the noisy
    picture; all else as it was."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = "<" if exif[start : start + 2] == b"II" else ">"
    try:
        first = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        end = first + 2 + 12 * struct.unpack_from(order + "H", exif, first)[0]
    except struct.error:  # damaged
        return exif
    return exif[:end] + bytes(4) + exif[end + 4 :] if end + 4 <= len(exif) else exif


def without_photoshop_thumbnails(resources: bytes) -> bytes:
    """Photoshop's resources, of a TIFF or JPEG file, without thumbnails: they would go on showing
    the noisy picture."""
    at = len(PHOTOSHOP) if resources.startswith(PHOTOSHOP) else 0
    kept = resources[:at]
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        size = at + 6 + (resources[at + 6] + 2) // 2 * 2  # behind the number and an even name
        end = size + 4 + (int.from_bytes(resources[size : size + 4], "big") + 1) // 2 * 2
        if int.from_bytes(resources[at + 4 : at + 6], "big") not in THUMBNAILS:
            kept += resources[at:end]
        at = end
    return kept + resources[at:]


def without_claims(xmp: bytes) -> bytes:
    """XMP that no longer says that a gain map, a video or extended XMP belongs to the picture.

    Other XMP stays as it is, to the byte; empty where it does say so and cannot be read.
    """
    if not any(name in xmp for name in CLAIMS):
        return xmp
    start, end = xmp.find(b"<x:xmpmeta"), xmp.rfind(b"</x:xmpmeta>")
    packet = xmp[start : end + len(b"</x:xmpmeta>")] if 0 <= start < end else xmp.strip(b"\0 \r\n")
    try:
        for _, (prefix, name) in ElementTree.iterparse(io.BytesIO(packet), ["start-ns"]):
            if not re.fullmatch(r"ns\d+", prefix):  # which ElementTree keeps for itself
                ElementTree.register_namespace(prefix, name)
        root = ElementTree.fromstring(packet)
    except ElementTree.ParseError:
        return b""
    claimed = tuple("{" + name.decode() + "}" for name in CLAIMS)
    for element in [*root.iter()]:
        for child in [child for child in element if child.tag.startswith(claimed)]:
            element.remove(child)
        for name in [name for name in element.attrib if name.startswith(claimed)]:
            del element.attrib[name]
    begin = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return begin + ElementTree.tostring(root, "utf-8") + b'<?xpacket end="w"?>'
