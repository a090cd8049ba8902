"""Makes data/: small pictures of every kind, and what an independent reader makes of them.

Needs numpy, Pillow and scikit-image. Pictures whose name begins with an expectation's name
(`base`, `grey`, …) are judged by <expectation>.npy, float32 [1, H, W, 3] in [-1, 1].
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from skimage.metrics import structural_similarity

OUT = Path(__file__).parent / "data"
W, H = 13, 9


# --- the pictures ---------------------------------------------------------------------------------
def base16():
    y, x = np.mgrid[0:H, 0:W].astype(np.float64)
    r = x / (W - 1)
    g = y / (H - 1)
    b = 0.5 + 0.5 * np.sin(x / 3 + y / 2)
    return np.round(np.stack([r, g, b], -1) * 65535).astype(np.uint16)


RGB16 = base16()
RGB8 = (RGB16 >> 8).astype(np.uint8)
GREY16 = RGB16[..., 2]
GREY8 = RGB8[..., 2]
ALPHA16 = RGB16[..., 0]
ALPHA8 = RGB8[..., 0]


def expect(name, unit):
    """unit: [H, W, 3] in [0, 1]."""
    np.save(OUT / f"{name}.npy", (2 * np.asarray(unit, np.float64) - 1).astype(np.float32)[None])


def three(grey):
    return np.repeat(grey[..., None], 3, -1)


# --- PNG by hand: what Pillow cannot write --------------------------------------------------------
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scanlines(pixels):
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big)


def png(pixels, colour_type, interlaced=False, extra=b"", late=b""):
    h, w = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    data = scanlines(pixels)
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        parts = [pixels[y::dy, x::dx] for x, y, dx, dy in passes]
        data = b"".join(scanlines(p) for p in parts if p.size)
    ihdr = struct.pack(">IIBBBBB", w, h, depth, colour_type, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + extra + chunk(b"IDAT", zlib.compress(data, 9))
            + late + chunk(b"IEND", b""))


def exif(orientation, endian="<"):
    order = b"II*\0" if endian == "<" else b"MM\0*"
    return order + struct.pack(endian + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def as_stored(pixels, orientation):
    """The inverse of what a reader does for this orientation."""
    return {1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
            5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, 1), 7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
            8: lambda p: np.rot90(p, -1)}[orientation](pixels).copy()


# --- ICC profiles by hand -------------------------------------------------------------------------
def s15(v):
    return struct.pack(">i", round(v * 65536))


def profile(space, klass, tags, pcs=b"XYZ "):
    body, table = b"", struct.pack(">I", len(tags))
    offset = 128 + 4 + 12 * len(tags)
    for name, data in tags:
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s12x4s4x4x4x8xI", size, b"none", 0x02100000, klass, space, pcs, b"acsp", 0)
    head += s15(0.9642) + s15(1.0) + s15(0.8249)
    return head + b"\0" * (128 - len(head)) + table + body


def text(kind, words):
    if kind == b"text":
        return b"text\0\0\0\0" + words + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + b"\0" + b"\0" * 78


def xyz(v):
    return b"XYZ \0\0\0\0" + b"".join(s15(c) for c in v)


def gamma(g):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(g * 256))


COMMON = [(b"desc", text(b"desc", b"test")), (b"cprt", text(b"text", b"none")), (b"wtpt", xyz((0.9642, 1, 0.8249)))]
# Adobe RGB (1998): primaries adapted to D50, gamma 563/256.
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
WIDE = profile(b"RGB ", b"mntr", COMMON + [(n + b"XYZ", xyz(ADOBE[:, i])) for i, n in enumerate([b"r", b"g", b"b"])]
               + [(n + b"TRC", gamma(563 / 256)) for n in [b"r", b"g", b"b"]])
DARK_GREY = profile(b"GRAY", b"mntr", COMMON + [(b"kTRC", gamma(1.0))])


def cmyk_profile():
    identity = bytes(range(256))
    grid = b""
    for c in (0, 1):
        for m in (0, 1):
            for y in (0, 1):
                for k in (0, 1):
                    # Linear, so that every way to interpolate gives the same.
                    lightness = 100 - 50 * k - 10 * (c + m + y)
                    grid += bytes([round(lightness * 2.55), 128 + 20 * (m - c), 128 + 20 * (y - c)])
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + b"".join(s15(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut += identity * 4 + grid + identity * 3
    return profile(b"CMYK", b"prtr", COMMON + [(b"A2B0", lut)], pcs=b"Lab ")


INK = cmyk_profile()


def wide_to_srgb(rgb):
    linear = (rgb ** (563 / 256)) @ ADOBE.T
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    return encode_srgb(linear @ np.linalg.inv(srgb).T)


def encode_srgb(v):
    v = np.clip(v, 0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


# --- files ----------------------------------------------------------------------------------------
def write(name, data):
    (OUT / name).write_bytes(data)


def pillow(name, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, name.split(".")[-1].replace("jpg", "jpeg"), **options)
    write(name, buffer.getvalue())
    return buffer.getvalue()


def over(colour, alpha, background):
    return colour * alpha[..., None] + np.asarray(background) * (1 - alpha[..., None])


def pngs():
    expect("base", RGB8 / 255)
    expect("deep", RGB16 / 65535)
    expect("grey", three(GREY8 / 255))
    expect("deepgrey", three(GREY16 / 65535))
    pillow("base_rgb8.png", RGB8)
    write("base_interlaced.png", png(RGB8, 2, interlaced=True))
    write("deep_rgb16.png", png(RGB16, 2))
    write("deep_interlaced16.png", png(RGB16, 2, interlaced=True))
    pillow("grey_grey8.png", GREY8)
    write("deepgrey_grey16.png", png(GREY16, 0))
    palette = Image.fromarray(RGB8).quantize(64)
    expect("palette", np.asarray(palette.convert("RGB")) / 255)
    pillow("palette_8bit.png", palette)
    bits = GREY8 > 100
    expect("bits", three(bits.astype(float)))
    pillow("bits_1bit.png", Image.fromarray(bits))
    few = Image.fromarray((GREY8 >> 6 << 6).astype(np.uint8)).quantize(4)
    expect("few", np.asarray(few.convert("RGB")) / 255)
    pillow("few_palette2bit.png", few, bits=2)

    # Alpha over orange, as the test asks.
    orange = (1, 0.5, 0.25)
    alpha = ALPHA8 / 255
    expect("alpha", over(RGB8 / 255, alpha, orange))
    expect("alphagrey", over(three(GREY8 / 255), alpha, orange))
    expect("deepalpha", over(RGB16 / 65535, ALPHA16 / 65535, orange))
    pillow("alpha_rgba8.png", np.dstack([RGB8, ALPHA8]))
    write("deepalpha_rgba16.png", png(np.dstack([RGB16, ALPHA16]), 6))
    write("alphagrey_ga8.png", png(np.dstack([GREY8, ALPHA8]), 4))
    pillow("alpha_lossless.webp", np.dstack([RGB8, ALPHA8]), lossless=True, exact=True)
    key = tuple(int(v) for v in RGB8[4, 5])
    expect("keyed", over(RGB8 / 255, (~(RGB8 == key).all(-1)).astype(float), orange))
    pillow("keyed_trns.png", Image.fromarray(RGB8), transparency=key)
    clear = Image.fromarray((np.mgrid[0:H, 0:W].sum(0) % 4).astype(np.uint8), "P")
    clear.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    rgba = np.asarray(clear.convert("RGB")) / 255
    opacity = np.array([1, 0.2, 0, 1])[np.asarray(clear)]
    expect("clear", over(rgba, opacity, orange))
    pillow("clear_palette_trns.png", clear, transparency=bytes([255, 51, 0, 255]))


def orientations():
    for o in range(1, 9):
        stored = as_stored(RGB8, o)
        write(f"base_orientation{o}.png", png(stored, 2, extra=chunk(b"eXIf", exif(o, "<>"[o % 2]))))
        pillow(f"base_orientation{o}.jpg", stored, quality=100, subsampling=0, exif=b"Exif\0\0" + exif(o, "<>"[o % 2]))
    write("base_exif_after_pixels.png", png(as_stored(RGB8, 6), 2, late=chunk(b"eXIf", exif(6))))
    pillow("base_orientation8.webp", as_stored(RGB8, 8), lossless=True, exif=exif(8))


def jpegs():
    pillow("base_rgb.jpg", RGB8, quality=100, subsampling=0)
    pillow("base_progressive.jpg", RGB8, quality=100, subsampling=0, progressive=True)
    pillow("grey_grey.jpg", GREY8, quality=100)
    cmyk = Image.fromarray(np.dstack([RGB8, 128 - ALPHA8 // 2]), "CMYK")
    data = pillow("cmyk_plain.jpg", cmyk, quality=100)
    expect("cmyk", np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255)


def webps():
    pillow("base_lossless.webp", RGB8, lossless=True)
    data = pillow("lossy_plain.webp", RGB8, quality=90)
    expect("lossy", np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255)
    frames = [Image.fromarray(RGB8), Image.fromarray(255 - RGB8)]
    pillow("animated.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)


def profiles():
    expect("wide", wide_to_srgb(RGB8 / 255))
    pillow("wide_rgb8.png", RGB8, icc_profile=WIDE)
    pillow("wide_rgb.jpg", RGB8, quality=100, subsampling=0, icc_profile=WIDE)
    pillow("wide_lossless.webp", RGB8, lossless=True, icc_profile=WIDE)
    expect("deepwide", wide_to_srgb(RGB16 / 65535))
    iccp = chunk(b"iCCP", b"wide\0\0" + zlib.compress(WIDE))
    write("deepwide_rgb16.png", png(RGB16, 2, extra=iccp))
    expect("alphawide", over(wide_to_srgb(RGB8 / 255), ALPHA8 / 255, (1, 0.5, 0.25)))
    write("alphawide_rgba8.png", png(np.dstack([RGB8, ALPHA8]), 6, extra=iccp))
    expect("lineargrey", three(encode_srgb(GREY8 / 255)))
    pillow("lineargrey_grey8.png", GREY8, icc_profile=DARK_GREY)
    pillow("lineargrey_grey.jpg", GREY8, quality=100, icc_profile=DARK_GREY)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pillow("base_srgb_profile.png", RGB8, icc_profile=srgb)
    expect("widegrey", wide_to_srgb(three(GREY8 / 255)))
    pillow("widegrey_rgb_profile.jpg", GREY8, quality=100, icc_profile=WIDE)

    cmyk = Image.fromarray(np.dstack([RGB8, 128 - ALPHA8 // 2]), "CMYK")
    data = pillow("ink_cmyk.jpg", cmyk, quality=100, icc_profile=INK)
    stored = Image.open(io.BytesIO(data))
    ink = ImageCms.profileToProfile(stored, io.BytesIO(INK), ImageCms.createProfile("sRGB"), 0, "RGB")
    expect("ink", np.asarray(ink) / 255)

    write("bad_profile.png", png(RGB8, 2, extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile" * 30))))
    pillow("bad_profile.jpg", RGB8, icc_profile=b"no profile" * 30)
    pillow("bad_profile.webp", RGB8, icc_profile=WIDE[:300])
    pillow("cmyk_profile_on_rgb.jpg", RGB8, icc_profile=INK)


# Both directions larger, one of them, and both smaller.
EDGE_SIZES = [(40, 30), (50, 5), (7, 5)]


def resizing():
    rng = np.random.default_rng(1)
    picture = rng.uniform(-1, 1, (9, 13, 3)).astype(np.float32)
    np.save(OUT / "resize_in.npy", picture[None])
    for w, h in [(5, 4), (31, 20), (13, 3), (1, 1), (40, 9)]:
        planes = [Image.fromarray(picture[..., c]).resize((w, h), Image.Resampling.LANCZOS) for c in range(3)]
        np.save(OUT / f"resize_{w}x{h}.npy", np.stack([np.asarray(p) for p in planes], -1)[None])
    edge = np.full((12, 17, 3), 255, np.uint8)
    edge[:, :9] = 0
    picture = Image.fromarray(edge)
    picture.save(OUT / "edge.png")
    for w, h in EDGE_SIZES:
        picture.resize((w, h), Image.Resampling.LANCZOS).save(OUT / f"edge_{w}x{h}.png")


def similarity():
    """Printed, to be put into metrics_test.cc."""
    y, x, c = np.mgrid[0:24, 0:37, 0:3]
    a = ((x * 7 + y * 13 + c * 50) % 256).astype(np.uint8)
    b = np.clip(a.astype(int) + ((x * 5 + y * 3 + c) % 17) - 8, 0, 255).astype(np.uint8)
    value = structural_similarity(a, b, channel_axis=2, gaussian_weights=True, sigma=1.5,
                                  use_sample_covariance=False, data_range=255)
    print(f"SSIM {value:.12f}")
    print(f"PSNR {10 * np.log10(255 ** 2 / np.mean((a.astype(float) - b) ** 2)):.12f}")


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for make in (pngs, orientations, jpegs, webps, profiles, resizing, similarity):
        make()
