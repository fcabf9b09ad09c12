"""Camera noise: from a clean picture to the pair (clean, noisy) that one camera would write.

The picture goes back to what a sensor would have seen, gets the sensor's noise, and is developed
again, as in Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019).
Demosaicing, the tone curve, the camera's own noise reduction and JPEG then make the noise coarse.

The ranges in `Camera.draw` are calibrated on training scenes of PolyU (Xu et al. 2018), both the
cameras' own files and the crops: docs/figures/draw_camera_noise.py measures and draws them.
"""

import dataclasses

import cv2
import numpy as np
from scipy.special import ndtr

Pair = tuple[np.ndarray, np.ndarray]  # clean and noisy, uint8 (3, H, W)

MARGIN = 16  # pixels, added while developing: room for filters and for an offset of JPEG's blocks

# XYZ to linear camera colours in daylight (D65), times 10000: Adobe's, as dcraw lists them.
CAMERA_FROM_XYZ = {
    "Canon EOS 5D Mark II": [[4716, 603, -830], [-7798, 15474, 2480], [-1496, 1937, 6651]],
    "Canon EOS 600D": [[6461, -907, -882], [-4300, 12184, 2378], [-819, 1944, 5931]],
    "Canon EOS 80D": [[7457, -671, -937], [-4849, 12495, 2643], [-1213, 2354, 5492]],
    "Nikon D800": [[7866, -2108, -555], [-4869, 12483, 2681], [-1176, 2069, 7501]],
    "Sony ILCE-7M2": [[5271, -712, -347], [-6153, 13653, 2763], [-1601, 2366, 7242]],
}
XYZ_FROM_RGB = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
CAMERA_FROM_RGB = np.array(list(CAMERA_FROM_XYZ.values())) @ np.array(XYZ_FROM_RGB)
CAMERA_FROM_RGB /= CAMERA_FROM_RGB.sum(axis=-1, keepdims=True)  # white balance is kept apart

YCC_FROM_RGB = np.array(  # JPEG's luma and chroma (ITU-R BT.601)
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
RGB_FROM_YCC = np.linalg.inv(YCC_FROM_RGB)

LINEAR = np.linspace(0, 1, 16384, dtype=np.float32)
DISPLAY = np.where(LINEAR > 0.0031308, 1.055 * LINEAR ** (1 / 2.4) - 0.055, 12.92 * LINEAR)  # sRGB

BILINEAR = (
    np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4
)  # from every other row and column
SUBSAMPLING = {  # by the rows and columns that share one chroma sample
    (1, 1): cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    (1, 2): cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    (2, 2): cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A camera, its settings and the light: everything random about a pair except the noise."""

    lens_blur: float  # pixels, standard deviation: pictures are less sharp than their pixels allow
    red: tuple[int, int]  # row and column of red in each 2x2 cell of the sensor, 0 or 1
    matrix: np.ndarray  # (3, 3), linear camera colours from linear sRGB; each row adds up to 1
    gains: np.ndarray  # (3,), white balance and exposure: raw red, green, blue to linear; >= 1
    contrast: float  # 0-1, weight of the S-shaped tone curve against a straight line
    shot: float  # a raw value v in 0-1 has noise of variance shot * v + read
    read: float
    smooths: bool = False  # whether the camera reduces noise; the next eight fields say how
    luma_blur: float = 0.0  # pixels, standard deviation of a Gaussian; so are the next two
    chroma_blur: float = 0.0
    broad_blur: float = 0.0  # noise coarser than this is left alone
    sharpness: float = 0.0  # 0-1, luma: 0 blurred by luma_blur, 1 as it was
    luma_kept: float = 1.0  # 0-1, share of finer noise that is left
    chroma_kept: float = 1.0
    chroma_left: float = 1.0  # 0-1, share of chroma noise that is left, fine or broad
    detail: float = 0.0  # 0-1, how far the camera holds back where the picture has detail
    quality: int | None = None  # of JPEG, 1-100; None: no JPEG
    sharing: tuple[int, int] = (2, 2)  # rows and columns that share one chroma sample in JPEG
    offset: tuple[int, int] = (0, 0)  # row and column of JPEG's first block, 0-15

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Camera":
        """A random camera.

        Shot noise is log-uniform; below 1e-4, rounding to bytes would hide it. Read noise follows
        it as in Brooks et al., section 3.1, but scatters more widely (0.6 instead of 0.26).
        """
        shot = float(np.exp(rng.uniform(np.log(1e-4), np.log(0.012))))
        weights = rng.dirichlet(np.ones(len(CAMERA_FROM_RGB)))
        white_balance = np.array([rng.uniform(1.3, 2.6), 1, rng.uniform(1.2, 2.6)])
        quality, sharing = draw_jpeg(rng)
        return cls(
            lens_blur=rng.uniform(0, 1),
            red=(int(rng.integers(2)), int(rng.integers(2))),
            matrix=np.tensordot(weights, CAMERA_FROM_RGB, axes=1),
            gains=white_balance / rng.uniform(0.6, 1),
            contrast=rng.uniform(0.3, 1),
            shot=shot,
            read=float(np.exp(2.18 * np.log(shot) + 1.2 + 0.6 * rng.standard_normal())),
            smooths=rng.random() < 0.95,
            luma_blur=rng.uniform(0.5, 1.1),
            chroma_blur=rng.uniform(0.7, 1.8),
            broad_blur=rng.uniform(2, 6),
            sharpness=rng.uniform(0, 0.9),
            luma_kept=rng.uniform(0.2, 0.8),
            chroma_kept=rng.uniform(0.1, 0.6),
            chroma_left=rng.uniform(0.5, 1),
            detail=rng.uniform(0.2, 1),
            quality=quality,
            sharing=sharing,
            offset=(int(rng.integers(16)), int(rng.integers(16))),
        )


def draw_jpeg(rng: np.random.Generator) -> tuple[int | None, tuple[int, int]]:
    """(quality, sharing): of no JPEG, of a camera's own file, or of a file that was saved again.

    In PolyU, cameras write 4:2:2 at about 90 to 98; its crops were saved again at 75, 4:2:0, which
    alone makes their chroma noise twice as coarse.
    """
    kind = rng.choice(["none", "camera", "saved again"], p=[0.15, 0.5, 0.35])
    if kind == "none":
        return None, (1, 1)
    if kind == "camera":
        sharing = [(1, 2), (2, 2), (1, 1)][rng.choice(3, p=[0.6, 0.3, 0.1])]
        return int(rng.integers(88, 99)), sharing
    return int(rng.integers(60, 93)), (2, 2)


def camera_pair(clean: np.ndarray, rng: np.random.Generator) -> Pair:
    """(clean, noisy): a picture as a random camera would write it, without and with noise.

    Args:
        clean: uint8 (3, H, W), RGB, of any size.
        rng: draws the camera and the noise; no other random state is read or changed.

    Returns:
        Two uint8 (3, H, W). The clean one is what the mean of many shots shows: demosaiced and
        developed like the noisy one, with chroma as coarse as JPEG stores it, but without noise
        and JPEG artefacts.
    """
    return develop_pair(clean, Camera.draw(rng), rng)


def develop_pair(clean: np.ndarray, camera: Camera, rng: np.random.Generator) -> Pair:
    """`camera_pair` with a given camera; `rng` draws the noise."""
    _, height, width = clean.shape
    padded = np.pad(clean.transpose(1, 2, 0), [(MARGIN,) * 2] * 2 + [(0, 0)], mode="reflect")
    raw = mosaic(unprocess(padded, camera), camera).clip(0, 1)
    noise = np.sqrt(camera.shot * raw + camera.read) * rng.standard_normal(raw.shape, np.float32)
    picture, plus, minus = develop(np.dstack([raw, raw + noise, raw - noise]), camera)
    change = (plus - minus) / 2  # the tone curve would shift the mean of `plus` alone
    if camera.smooths:
        change = reduce_noise(change, picture, camera)
    noisy = to_bytes(picture + change)
    if camera.quality is not None:
        noisy, picture = write_jpeg(noisy, camera), share_chroma(picture, camera)
    inside = np.s_[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    sides = to_bytes(mean_shot(picture, change))[inside], noisy[inside]
    clean_side, noisy_side = (np.ascontiguousarray(side.transpose(2, 0, 1)) for side in sides)
    return clean_side, noisy_side


def s_curve(values: np.ndarray, contrast: float) -> np.ndarray:
    """The tone curve: a straight line at contrast 0, 3x^2 - 2x^3 at 1; values in 0-1."""
    return values * (1 - contrast + contrast * values * (3 - 2 * values))


def unprocess(picture: np.ndarray, camera: Camera) -> np.ndarray:
    """uint8 (H, W, 3) sRGB to float32 (H, W, 3) raw colours in 0-1, all three at every pixel."""
    curve = np.linspace(0, 1, 1025)
    display = np.interp(np.linspace(0, 1, 256), s_curve(curve, camera.contrast), curve)
    table = np.where(display > 0.04045, ((display + 0.055) / 1.055) ** 2.4, display / 12.92)
    linear = cv2.LUT(picture, table.astype(np.float32))
    if camera.lens_blur > 0:
        linear = cv2.GaussianBlur(linear, (0, 0), camera.lens_blur)
    # Highlights keep more than 1 / gain of their value, up to all of it: white in the picture is
    # saturated on the sensor (Brooks et al., section 3.2).
    gray = cv2.transform(linear, np.full((1, 3), 1 / 3, np.float32))[..., None]
    highlight = ((gray - 0.9) / 0.1).clip(0) ** 2
    factors = (1 / camera.gains).astype(np.float32)
    factors = np.maximum(factors, highlight + (1 - highlight) * factors)
    return cv2.transform(linear, camera.matrix.astype(np.float32)) * factors


def mosaic(colours: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W, 3) to (H, W): the one colour that each pixel of the sensor sees."""
    row, column = camera.red
    seen = colours[..., 1].copy()
    seen[row::2, column::2] = colours[row::2, column::2, 0]
    seen[1 - row :: 2, 1 - column :: 2] = colours[1 - row :: 2, 1 - column :: 2, 2]
    return seen


def develop(raws: np.ndarray, camera: Camera) -> list[np.ndarray]:
    """N raw pictures (H, W, N) to N sRGB pictures, float32 (H, W, 3) in 0-255."""
    gains = mosaic(np.broadcast_to(np.float32(camera.gains), (*raws.shape[:2], 3)), camera)
    colours = demosaic(raws.clip(max=1) * gains[..., None], camera).clip(0, 1)
    linear = cv2.transform(colours, np.linalg.inv(camera.matrix).astype(np.float32)).clip(0, 1)
    table = 255 * s_curve(DISPLAY, camera.contrast)
    places = (linear * (len(table) - 1) + 0.5).astype(np.intp)
    return np.split(table.take(places), raws.shape[-1])


def demosaic(raws: np.ndarray, camera: Camera) -> np.ndarray:
    """N raw pictures (H, W, N) to float32 (N * H, W, 3), one below the other.

    Hamilton and Adams (US patents 5506619 and 5629734, both expired): green is interpolated along
    the direction of less change, and then red - green and blue - green bilinearly. OpenCV's
    demosaicing leaves twice the error on sharp pictures, most of it as false colours.
    """
    slope, bend = np.array([[-1, 0, 1]], np.float32), np.array([[-1, 0, 2, 0, -1]], np.float32)
    line = np.array([[-1, 2, 2, 2, -1]], np.float32) / 4
    across, down = cv2.filter2D(raws, -1, line), cv2.filter2D(raws, -1, line.T)
    change_across, change_down = (
        np.abs(cv2.filter2D(raws, -1, first)) + np.abs(cv2.filter2D(raws, -1, second))
        for first, second in ((slope, bend), (slope.T, bend.T))
    )
    estimate = np.where(change_across < change_down, across, down)
    row, column = camera.red
    sites = np.s_[row::2, column::2], np.s_[1 - row :: 2, 1 - column :: 2]
    green = raws.copy()
    for site in sites:
        green[site] = estimate[site]
    differences = np.zeros((2, *raws.shape), np.float32)
    for difference, site in zip(differences, sites):
        difference[site] = raws[site] - green[site]
    red, blue = (green + cv2.filter2D(difference, -1, BILINEAR) for difference in differences)
    return np.concatenate(np.stack([red, green, blue], axis=-1).transpose(2, 0, 1, 3))


def reduce_noise(change: np.ndarray, picture: np.ndarray, camera: Camera) -> np.ndarray:
    """What the camera's noise reduction leaves of `change`, the noise in `picture`; (H, W, 3).

    Chroma is blurred more than luma. Then noise finer than `broad_blur` is weakened, for cameras
    mistake broader noise for detail. Around detail, both happen less.
    """
    ycc = cv2.transform(change, YCC_FROM_RGB)
    height, width, _ = ycc.shape
    half = cv2.resize(ycc, (width // 2, height // 2), interpolation=cv2.INTER_AREA)  # for speed
    broad = cv2.resize(cv2.GaussianBlur(half, (0, 0), camera.broad_blur / 2), (width, height))
    fine = cv2.GaussianBlur(ycc, (0, 0), camera.chroma_blur)
    fine[..., 0] = cv2.GaussianBlur(ycc[..., 0], (0, 0), camera.luma_blur)

    gray = cv2.transform(picture, YCC_FROM_RGB[:1])
    variance = (cv2.blur(gray * gray, (7, 7)) - cv2.blur(gray, (7, 7)) ** 2).clip(0)[..., None]
    detail = camera.detail * variance / (variance + 16)  # half-way at 4 grey levels
    sharp = camera.sharpness + (1 - camera.sharpness) * detail**2
    fine[..., :1] += sharp * (ycc[..., :1] - fine[..., :1])
    kept = np.array([camera.luma_kept, camera.chroma_kept, camera.chroma_kept], np.float32)
    kept = kept + (1 - kept) * detail
    left = broad + kept * (fine - broad)
    left[..., 1:] *= camera.chroma_left
    return cv2.transform(left, RGB_FROM_YCC)


def share_chroma(picture: np.ndarray, camera: Camera) -> np.ndarray:
    """The picture (H, W, 3) with chroma as coarse as JPEG stores it, but nothing else of JPEG.

    Every shot loses this colour detail alike, so it is missing from the mean of many as well.
    """
    (rows, columns), (top, left) = camera.sharing, camera.offset
    height, width = (picture.shape[0] - top) // 2 * 2, (picture.shape[1] - left) // 2 * 2
    ycc = cv2.transform(picture, YCC_FROM_RGB)
    chroma = ycc[top : top + height, left : left + width, 1:]
    shared = cv2.resize(chroma, (width // columns, height // rows), interpolation=cv2.INTER_AREA)
    chroma[:] = cv2.resize(shared, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.transform(ycc, RGB_FROM_YCC).clip(0, 255)


def mean_shot(picture: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The mean of many shots of `picture` with noise like `change`, cut off at 0 and 255.

    Cutting off makes black brighter and white darker on average. The noise's standard deviation
    is taken from pixels of about the same brightness, in 16 steps.
    """
    levels, level = to_bytes(picture), np.arange(256)
    shifts = np.empty((1, 256, 3), np.float32)
    for k in range(3):
        steps = levels[..., k].ravel() // 16
        squares = np.bincount(steps, change[..., k].ravel() ** 2, minlength=16)
        std = np.sqrt(squares / np.bincount(steps, minlength=16).clip(1)).repeat(16) + 1e-3
        shifts[..., k] = std * (mean_excess(level / std) - mean_excess((255 - level) / std))
    return picture + cv2.LUT(levels, shifts)


def mean_excess(limit: np.ndarray) -> np.ndarray:
    """E[max(n - limit, 0)] of a standard normal n."""
    return np.exp(-limit * limit / 2) / np.sqrt(2 * np.pi) - limit * ndtr(-limit)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Round to uint8; values outside 0-255 are cut off."""
    return (picture + 0.5).clip(0, 255).astype(np.uint8)


def write_jpeg(picture: np.ndarray, camera: Camera) -> np.ndarray:
    """uint8 (H, W, 3) as it comes back from a JPEG file whose blocks begin at `camera.offset`."""
    top, left = camera.offset
    options = [cv2.IMWRITE_JPEG_QUALITY, camera.quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLING[camera.sharing]]
    _, data = cv2.imencode(".jpg", picture[top:, left:, ::-1], options)
    written = picture.copy()
    written[top:, left:] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return written
