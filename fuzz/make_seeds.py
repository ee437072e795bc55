#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, a few kB each, from the demonstration images.

    python3 -m venv venv && venv/bin/pip install pillow
    venv/bin/python fuzz/make_seeds.py

The seeds are committed, so this runs only when a target or a format is added. Needs Pillow and nothing else.
"""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

from PIL import Image, PngImagePlugin

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parent / "assets"
SEPARATOR = b"\n%%%%\n"


def save(target: str, name: str, content: bytes) -> None:
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# Images


def exif(order: str, orientation: int, long: bool = False, focal: int = 26) -> bytes:
    """A TIFF header, a directory with the orientation, and one with the focal length on 35 mm film."""
    end = {"II": "<", "MM": ">"}[order]

    def entry(tag, kind, value):
        content = struct.pack(end + ("I" if kind == 4 else "H2x"), value)
        return struct.pack(end + "HHI", tag, kind, 1) + content

    first = struct.pack(end + "H", 2) + entry(0x112, 4 if long else 3, orientation) + entry(0x8769, 4, 38) + bytes(4)
    second = struct.pack(end + "H", 1) + entry(0xA405, 3, focal) + bytes(4)
    return order.encode() + struct.pack(end + "HI", 42, 8) + first + second


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    import zlib

    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I", len(inside) + 8) + kind + inside


def heic(exif_data: bytes) -> bytes:
    """The description of a HEIC image of 64x48 pixels in tiles that is turned, with EXIF data and without pixels."""

    def item(number: int, kind: bytes) -> bytes:
        return box(b"infe", bytes([2, 0, 0, 0, 0, number, 0, 0]), kind, b"\0")

    data = struct.pack(">I", 6) + b"Exif\0\0" + exif_data
    size = box(b"ispe", bytes(4), struct.pack(">II", 64, 48))
    crop = box(b"clap", struct.pack(">8I", 60, 1, 40, 1, 0, 1, 0, 1))
    properties = box(b"ipco", size, crop, box(b"irot", b"\x01"), box(b"imir", b"\0"))
    used = box(b"ipma", bytes(4), struct.pack(">I", 1), bytes([0, 1, 4, 0x81, 0x82, 0x83, 0x84]))

    def meta(offset: int) -> bytes:
        place = bytes([0, 7, 0, 0, 0, 1]) + struct.pack(">II", offset, len(data))
        return box(
            b"meta",
            bytes(4),
            box(b"pitm", bytes(4), b"\0\1"),
            box(b"iinf", bytes(4), b"\0\2", item(1, b"grid"), item(7, b"Exif")),
            box(b"iprp", properties, used),
            box(b"iloc", bytes(4), bytes([0x44, 0, 0, 1]), place),
        )

    brand = box(b"ftyp", b"heic", bytes(4), b"mif1")
    return brand + meta(len(brand) + len(meta(0)) + 8) + box(b"mdat", data)


def images() -> None:
    photo = Image.open(ASSETS / "demo_1.jpg").convert("RGB")
    small = photo.resize((16, 8))
    medium = photo.resize((40, 24))
    alpha = small.copy()
    alpha.putalpha(small.convert("L"))
    grey16 = Image.frombytes("I;16", (16, 8), b"".join(struct.pack("<H", 257 * level) for level in small.convert("L").tobytes()))
    palette = small.quantize(8)

    def add(name, content):
        save("images", name, content)

    add("plain.jpg", encoded(small, "JPEG", quality=50, subsampling=0))
    add("plain.png", encoded(small, "PNG"))
    add("plain.webp", encoded(small, "WEBP", lossless=True))
    for name, options in {
        "420": {"subsampling": 2},
        "422": {"subsampling": 1},
        "progressive": {"subsampling": 2, "progressive": True},
        "restarts": {"subsampling": 2, "restart_marker_blocks": 1},
        "exif": {"exif": exif("MM", 6)},
        "xmp": {"xmp": XMP},
    }.items():
        add(f"{name}.jpg", encoded(medium, "JPEG", quality=30, optimize=True, **options))
    add("grey.jpg", encoded(medium.convert("L"), "JPEG", quality=30, optimize=True))
    add("grey_progressive.jpg", encoded(medium.convert("L"), "JPEG", quality=30, progressive=True))
    add("cmyk.jpg", encoded(small.convert("CMYK"), "JPEG", quality=30, optimize=True))
    add("rgb.jpg", encoded(small, "JPEG", quality=30, keep_rgb=True, optimize=True))
    add("alpha.png", encoded(alpha, "PNG"))
    add("grey_alpha.png", encoded(alpha.convert("LA"), "PNG"))
    add("grey16.png", encoded(grey16, "PNG"))
    add("palette.png", encoded(palette, "PNG", transparency=b"\x00\x80\xff"))
    add("bits.png", encoded(small.convert("1"), "PNG", transparency=1))
    add("exif.png", encoded(small, "PNG", exif=exif("II", 8)))
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    raw = exif("II", 3)
    text.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{(b'Exif' + bytes(2) + raw).hex()}\n", zip=True)
    add("text.png", encoded(small, "PNG", pnginfo=text))
    plain = encoded(small, "PNG")
    add("late_exif.png", plain[:-12] + png_chunk(b"eXIf", exif("II", 5)) + plain[-12:])
    add("adam7.png", adam7(small))
    add("phone.heic", heic(exif("MM", 6)))
    version = struct.pack("<HHI", 0xC612, 1, 4) + b"\1\4\0\0"
    main = b"II" + struct.pack("<HIH", 42, 8, 2) + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + version + bytes(4)
    previews = encoded(small, "JPEG", quality=30) + encoded(medium, "JPEG", quality=30)
    add("previews.dng", main + previews)
    add("lossy.webp", encoded(medium, "WEBP", quality=30))
    add("alpha.webp", encoded(alpha, "WEBP", quality=30))
    add("exif.webp", encoded(small, "WEBP", quality=30, exif=exif("II", 6), xmp=XMP))
    add("animation.webp", encoded(small, "WEBP", save_all=True, append_images=[small.rotate(180)], quality=10))
    add("rgb.bmp", encoded(small, "BMP"))
    add("palette.bmp", encoded(palette, "BMP"))
    add("bits.bmp", encoded(small.convert("1"), "BMP"))
    add("rle.bmp", rle_bmp())
    add("alpha.bmp", encoded(alpha, "BMP"))
    for name in ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]:
        add(f"{name}.tif", encoded(small, "TIFF", compression=None if name == "raw" else name))
    add("jpeg.tif", encoded(small, "TIFF", compression="jpeg"))
    add("predictor.tif", encoded(small, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}))
    add("palette.tif", encoded(palette, "TIFF"))
    add("grey16.tif", encoded(grey16, "TIFF"))
    add("fax.tif", encoded(small.convert("1"), "TIFF", compression="group4"))
    add("cmyk.tif", encoded(small.convert("CMYK"), "TIFF", compression="tiff_lzw"))
    add("alpha.tif", encoded(alpha, "TIFF", compression="tiff_lzw"))
    add("oriented.tif", encoded(small, "TIFF", compression="tiff_lzw", tiffinfo={274: 6}))
    add("pages.tif", encoded(small.resize((4, 2)), "TIFF", save_all=True, append_images=[small], tiffinfo={254: 1}))

    for name, content in {
        "little": exif("II", 6),
        "big": exif("MM", 8),
        "long": exif("II", 3, long=True),
        "upright": exif("MM", 1, focal=0),
    }.items():
        save("exif", name, content)

    mask = Image.new("L", (48, 32))
    mask.paste(255, (0, 0, 20, 32))
    save("masks", "grey.png", encoded(mask, "PNG"))
    save("masks", "ones.png", encoded(mask.point(lambda level: level // 255), "PNG"))
    save("masks", "bits.png", encoded(mask.convert("1"), "PNG"))
    save("masks", "palette.png", encoded(mask.convert("RGB").quantize(4), "PNG"))
    save("masks", "grey16.png", encoded(mask.convert("I;16"), "PNG"))
    with_alpha = Image.new("RGBA", (48, 32))
    with_alpha.putalpha(mask)
    save("masks", "alpha.png", encoded(with_alpha, "PNG"))
    save("masks", "alpha.webp", encoded(with_alpha, "WEBP", lossless=True))
    save("masks", "grey.jpg", encoded(mask, "JPEG", quality=30, optimize=True))
    save("masks", "bits.tif", encoded(mask.convert("1"), "TIFF", compression="packbits"))


def adam7(image: Image.Image) -> bytes:
    """An interlaced PNG, which Pillow does not write."""
    import zlib

    width, height = image.size
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, across, down in passes:
        for y in range(top, height, down):
            pixels = b"".join(bytes(image.getpixel((x, y))) for x in range(left, width, across))
            rows += b"\0" + pixels if pixels else b""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def rle_bmp() -> bytes:
    """8 x 2 pixels of a palette in runs, one of them absolute."""
    pixels = bytes([8, 1, 0, 0, 0, 4, 0, 1, 2, 3, 4, 0, 0, 1])
    palette = bytes([0, 0, 0, 0, 255, 255, 255, 0, 255, 0, 0, 0, 0, 255, 0, 0])
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 8, 1, len(pixels), 0, 0, 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


# Weights


def tensors() -> dict[str, list[int]]:
    """Names and shapes of a DUNE encoder of one block, eight channels wide."""
    dim, mlp = 8, 8
    shapes = {
        "cls_token": [1, 1, dim],
        "pos_embed": [1, 5, dim],
        "register_tokens": [1, 2, dim],
        "patch_embed.proj.weight": [dim, 3, 2, 2],
        "patch_embed.proj.bias": [dim],
        "norm.weight": [dim],
        "norm.bias": [dim],
    }
    block = {"attn.qkv": [3 * dim, dim], "attn.proj": [dim, dim], "mlp.fc1": [mlp, dim], "mlp.fc2": [dim, mlp]}
    for name, shape in block.items():
        shapes[f"blocks.0.0.{name}.weight"], shapes[f"blocks.0.0.{name}.bias"] = shape, shape[:1]
    for name in ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"]:
        shapes[f"blocks.0.0.{name}"] = [dim]
    return shapes


def croco() -> dict[str, list[int]]:
    """Those of MASt3R's encoder."""
    kept = {name.replace("blocks.0.0", "enc_blocks.0"): shape for name, shape in tensors().items() if "gamma" not in name}
    for name in ["cls_token", "pos_embed", "register_tokens"]:
        del kept[name]
    return {name.replace("norm.", "enc_norm.") if name.startswith("norm.") else name: shape for name, shape in kept.items()}


def mast3r() -> dict[str, list[int]]:
    """Those of a whole MASt3R with one decoder block, which is shared by both views."""
    shapes, dim, patch = croco(), 8, 2
    shapes |= {"decoder_embed.weight": [dim, dim], "decoder_embed.bias": [dim]}
    for name, shape in croco().items():
        if name.startswith("enc_blocks.0."):
            shapes[name.replace("enc_blocks", "dec_blocks")] = shape
    for part in ["projq", "projk", "projv", "proj"]:
        shapes |= {f"dec_blocks.0.cross_attn.{part}.weight": [dim, dim], f"dec_blocks.0.cross_attn.{part}.bias": [dim]}
    for part in ["dec_blocks.0.norm3", "dec_blocks.0.norm_y", "dec_norm"]:
        shapes |= {f"{part}.weight": [dim], f"{part}.bias": [dim]}

    def conv(name, outputs, inputs, kernel):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = [outputs, inputs, kernel, kernel], [outputs]

    for view in [1, 2]:
        dpt, mlp = f"downstream_head{view}.dpt", f"downstream_head{view}.head_local_features"
        for k, kernel in enumerate([4, 2, None, 3]):
            conv(f"{dpt}.act_postprocess.{k}.0", 2, dim, 1)
            if kernel:
                conv(f"{dpt}.act_postprocess.{k}.1", 2, 2, kernel)
            shapes[f"{dpt}.scratch.layer{k + 1}_rn.weight"] = [2, 2, 3, 3]
        for level in range(1, 5):
            fusion = f"{dpt}.scratch.refinenet{level}"
            for unit in [2] if level == 4 else [1, 2]:
                conv(f"{fusion}.resConfUnit{unit}.conv1", 2, 2, 3)
                conv(f"{fusion}.resConfUnit{unit}.conv2", 2, 2, 3)
            conv(f"{fusion}.out_conv", 2, 2, 1)
        conv(f"{dpt}.head.0", 2, 2, 3)
        conv(f"{dpt}.head.2", 2, 2, 3)
        conv(f"{dpt}.head.4", 4, 2, 1)
        shapes |= {f"{mlp}.fc1.weight": [8, 2 * dim], f"{mlp}.fc1.bias": [8]}
        shapes |= {f"{mlp}.fc2.weight": [5 * patch * patch, 8], f"{mlp}.fc2.bias": [5 * patch * patch]}
    return shapes


SETTINGS = {
    "enc_embed_dim": 8,
    "enc_num_heads": 2,
    "dec_embed_dim": 8,
    "dec_num_heads": 2,
    "pos_embed": "RoPE100",
    "head_type": "catmlp+dpt",
    "output_mode": "pts3d+desc4",
    "two_confs": True,
    "depth_mode": ["exp", float("-inf"), float("inf")],
    "conf_mode": ["exp", 1, float("inf")],
    "desc_conf_mode": ["exp", 0, float("inf")],
}


def count(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def safetensors(shapes: dict[str, list[int]], dtype: str = "F16", shared: bool = True, **metadata) -> bytes:
    """Tensors that all lie in the same bytes if they are `shared`, so that the file stays small."""
    size = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}[dtype]
    header, end = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, shape in shapes.items():
        start = 0 if shared else end
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + count(shape) * size]}
        end = max(end, start + count(shape) * size)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"\x11" * end


class Reference:
    """What `persistent_id` turns into a storage."""

    def __init__(self, key: str, size: int):
        self.key, self.size = key, size


class Global:
    """A function or class that is only ever named."""

    def __init__(self, module: str, name: str):
        self.__module__, self.__qualname__, self.__name__ = module, name, name


class Pickler(pickle._Pickler):
    """Writes what `torch.save` writes, without torch."""

    def persistent_id(self, value):
        if isinstance(value, Reference):
            return ("storage", Global("torch", "FloatStorage"), value.key, "cpu", value.size)
        return None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__name__}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
            if value.state is not None:
                self.save(value.state)
                self.write(pickle.BUILD)
        else:
            super().save(value, save_persistent_id)


class Call:
    """A call of a function, and the state that the result is given."""

    def __init__(self, function: Global, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state


def pickled(value) -> bytes:
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def state_dict(shapes: dict[str, list[int]]) -> dict:
    def strides(shape):
        return tuple(count(shape[axis + 1 :]) for axis in range(len(shape)))

    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    hooks = Call(Global("collections", "OrderedDict"))
    storage = Reference("0", 512)
    return {name: Call(rebuild, storage, 0, tuple(shape), strides(shape), False, hooks) for name, shape in shapes.items()}


def constructor() -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in SETTINGS.items())
    return f"AsymmetricMASt3R({arguments})".replace("[", "(").replace("]", ")")


def archive(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in {
            "x/data.pkl": content,
            "x/byteorder": b"little",
            "x/data/0": b"\x11\x3c\x11\x3c" * 512,
            "x/version": b"3\n",
        }.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def weights() -> None:
    config = json.dumps(SETTINGS).encode()
    save("safetensors", "dune", safetensors({f"encoder.{name}": shape for name, shape in tensors().items()}))
    save("safetensors", "croco", safetensors(croco(), "BF16") + SEPARATOR + config)
    save("safetensors", "mast3r", safetensors(mast3r(), "F32") + SEPARATOR + config)
    permuted = {name: [s[0], *s[2:], s[1]] if len(s) == 4 else s for name, s in croco().items()}
    save("safetensors", "mlx", safetensors(permuted, "F64", format="mlx_optimized") + SEPARATOR + config)
    alone = {"decoder_embed.weight": [8, 8]}
    save("safetensors", "apart", safetensors({f"mast3r.{name}": shape for name, shape in alone.items()}, shared=False))

    namespace = Call(Global("argparse", "Namespace"), state={"model": constructor(), "enc_args": {"num_heads": 2}})
    checkpoints = {
        "dune": {"model": state_dict({f"module.{name}": shape for name, shape in tensors().items()}), "args": namespace},
        "mast3r": {"model": state_dict(mast3r()), "args": namespace, "epoch": 3, "loss": 0.5, "best": None},
        "croco": state_dict(croco()),
        "alone": {"model": state_dict({f"mast3r.{name}": shape for name, shape in alone.items()}), "dune_backbone_name": "dune_vitsmall_14_336"},
    }
    for name, value in checkpoints.items():
        content = pickled(value)
        save("pickle", name, content)
        if name != "mast3r":
            save("torch", name, archive(content))
    parameter = {"w": Call(Global("torch._utils", "_rebuild_parameter"), state_dict({"w": [2, 2]})["w"], True, Call(Global("collections", "OrderedDict")))}
    save("pickle", "parameter", pickled(parameter))
    for protocol in [3, 4, 5]:
        save("pickle", f"protocol_{protocol}", pickle.dumps({"a": (1, 2.5, "text", b"bytes", [None, True, 1 << 70, {3}])}, protocol))


# Cameras and pairs


def cameras() -> None:
    names = ["a.jpg", "left/0.png", "right/0.png"]
    pinhole = [80.0, 81.0, 48.0, 32.0]

    def binary(models) -> bytes:
        out = struct.pack("<Q", len(models))
        for number, (model, parameters) in enumerate(models, 1):
            out += struct.pack("<IiQQ", number, model, 96, 64) + struct.pack(f"<{len(parameters)}d", *parameters)
        return out

    images = struct.pack("<Q", len(names))
    for number, name in enumerate(names, 1):
        images += struct.pack("<I7dI", number, 1, 0, 0, 0, 0, 0, number, min(number, 2)) + name.encode() + b"\0"
        images += struct.pack("<Q", 1) + struct.pack("<ddq", 3.5, 4.5, -1)
    save("colmap_binary", "pinhole", binary([(1, pinhole), (0, [80.0, 48.0, 32.0])]) + SEPARATOR + images)
    distorted = [(4, pinhole + [0.1, 0, 0, 0]), (2, [80.0, 48.0, 32.0, 0.0]), (10, pinhole + [0.0] * 8)]
    save("colmap_binary", "distorted", binary(distorted) + SEPARATOR + images)

    text = b"# Camera list\n1 PINHOLE 96 64 80 81 48 32\n2 SIMPLE_RADIAL 96 64 80 48 32 0\n3 OPENCV_FISHEYE 96 64 80 81 48 32 0 0 0 0\n"
    lines = [f"{n} 0.7071 0 0 0.7071 1 2 {n} {n} {name}\n3.5 4.5 -1 5.5 6.5 7\n" for n, name in enumerate(names, 1)]
    save("colmap_text", "model", text + SEPARATOR + "# Image list\n".encode() + "".join(lines).encode())
    empty = [line.split("\n")[0] + "\n\n" for line in lines]
    save("colmap_text", "no_points", text.replace(b"\n", b"\r\n") + SEPARATOR + "".join(empty).encode())
    save("colmap_text", "no_empty_lines", text + SEPARATOR + "".join(line.split("\n")[0] + "\n" for line in lines).encode())

    rows = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3.5], [0, 0, 0, 1]]
    size = {"width": 48, "height": 32, "fx": 40.0, "fy": 40.5, "cx": 23.5, "cy": 15.5}
    file = {"width": 96, "height": 64, "fx": 80.0, "fy": 81.0, "cx": 47.5, "cy": 31.5}
    entries = [
        {"name": names[0], **size, "file": file, "world_from_camera": rows},
        {"name": names[1], "width": 48, "height": 32, "fx": None, "world_from_camera": None},
        {"name": names[2], **file},
    ]
    save("cameras", "three.json", json.dumps({"frame": "x", "images": entries}, indent=1).encode())
    save("cameras", "one.json", json.dumps({"images": entries[:1]}).encode())
    frames = [{"file_path": f"./images/{name}", "transform_matrix": rows} for name in names]
    shared = {"camera_model": "OPENCV", "w": 96, "h": 64, "fl_x": 80.0, "fl_y": 81.0, "cx": 48.0, "cy": 32.0, "k1": 0.0}
    save("cameras", "transforms.json", json.dumps({**shared, "frames": frames}).encode())
    frames = [{**frame, **shared} for frame in frames[:1]] + [{"file_path": "left/0", "transform_matrix": rows}]
    angle = {"camera_angle_x": 1.08, "applied_transform": rows[:3], "frames": frames}
    save("cameras", "frames.json", json.dumps(angle).encode())
    poses = ["1403636579.763555584 0 0 0 0 0 0 1", "1403636579.813555456 1 2 3 0.5 0.5 0.5 0.5"]
    save("cameras", "times.txt", "\n".join(["# timestamp tx ty tz qx qy qz qw", *poses, ""]).encode())
    save("cameras", "indices.txt", b"0 0 0 0 0 0 0 1\n1 1 0 0 0 0 0 1\n2,2,0,0,0,0,1,0\n")
    save("cameras", "utf16.txt", "0 0 0 0 0 0 0 1\r\n".encode("utf-16"))

    save("pair_lists", "spaces", b"# pairs\na.jpg left/0.png\nleft/0.png  right/0.png\n\nviews/a.jpg right/0.png\n")
    save("pair_lists", "tabs", b"a.jpg\twith space.png\r\nwith space.png\tleft/0.png\r\n")
    save("pair_lists", "ambiguous", b"a.jpg 0.png\n")
    save("pair_lists", "between", b"views/with space.png views/left/0.png\n")


def predictions() -> None:
    # Two images of 4 x 3 and 3 x 4 pixels.
    sizes = [(4, 3), (3, 4)]
    entries = [{"name": f"{i}.png", "width": width, "height": height} for i, (width, height) in enumerate(sizes)]

    def file(parts: dict[str, tuple[str, list[int], bytes]]) -> bytes:
        header, data = {}, b""
        for name, (dtype, shape, content) in parts.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data

    def floats(kind: str, total: int, start: float = 1.0) -> bytes:
        return b"".join(struct.pack("<" + kind, start + 0.25 * (at % 7)) for at in range(total))

    views = {}
    for i, (width, height) in enumerate(sizes):
        views[f"{i}.rgb"] = ("U8", [height, width, 3], bytes(range(width * height * 3)))
        views[f"{i}.descriptors"] = ("I8", [height, width, 2], bytes((at * 37) % 251 for at in range(width * height * 2)))
    maps = {}
    for a, b in [(0, 1), (1, 0)]:
        for name, (width, height) in [("first", sizes[a]), ("second", sizes[b])]:
            prefix, total = f"{a}-{b}.{name}", width * height
            maps[f"{prefix}.points"] = ("F16", [height, width, 3], floats("e", 3 * total))
            maps[f"{prefix}.confidence"] = ("F32", [height, width], floats("f", total))
            maps[f"{prefix}.descriptor_confidence"] = ("F32", [height, width], floats("f", total))
    scene = {"images": entries, "pairs": [[0, 1]]}
    save("predictions", "two", SEPARATOR.join([json.dumps(scene).encode(), file(views), file(maps)]))

    size, side = sizes[0], sizes[0][0]
    crop = {"file_width": 8, "file_height": 6, "resized_width": 4, "resized_height": 3, "left": 0, "top": 0, "width": size[0], "height": size[1]}
    image = {"width": size[0], "height": size[1], "file": "views/0.safetensors", "crop": crop}
    scene = {
        "version": 2,
        "images": [{"name": "0.png", **image}, {"name": "1.png", **image}],
        "pairs": [[0, 1]],
        "pair_files": ["pairs/0.safetensors"],
        "exchanged": [True],
        "graph": "complete",
    }
    total = side * size[1]
    view = {"0.rgb": ("U8", [size[1], size[0], 3], bytes(range(3 * total)))}
    pair = {}
    for name in ["0-1.first", "0-1.second", "1-0.first", "1-0.second"]:
        pair[f"{name}.points"] = ("F32", [size[1], size[0], 3], floats("f", 3 * total))
        pair[f"{name}.confidence"] = ("F32", [size[1], size[0]], floats("f", total))
    pair["0-1.first"] = ("I32", [2, 2], struct.pack("<4i", 0, 0, 3, 2))
    pair["0-1.second"] = ("I32", [2, 2], struct.pack("<4i", 1, 1, 2, 2))
    pair["0-1.confidence"] = ("F32", [2], floats("f", 2))
    save("work_folder", "two", SEPARATOR.join([json.dumps(scene).encode(), file(view), file(pair)]))


def clouds() -> None:
    """Two points in each layout of PLY; a GLB with a camera, its frustum and image."""
    header = "ply\nformat {} 1.0\ncomment units: metres\nelement vertex 2\nproperty float x\nproperty float y\n" \
        "property double z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n" \
        "property float confidence\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
    points = [(1, -2.5, 3, 255, 0, 7, 2), (0.5, 0, 1e-3, 1, 2, 3, 9.5)]
    text = "".join(" ".join(str(value) for value in point) + "\n" for point in points)
    save("ply", "text", (header.format("ascii") + text + "3 0 1 1\n").encode())
    for order, name in (("<", "little"), (">", "big")):
        body = b"".join(struct.pack(order + "2fd3Bf", *point) for point in points)
        face = struct.pack(order + "B3i", 3, 0, 1, 1)
        save("ply", name, header.format(f"binary_{name}_endian").encode() + body + face)
    plain = "ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nproperty int y\nproperty int z\nend_header\n1 2 3\n"
    save("ply", "plain", plain.encode())

    with Image.open(ASSETS / "demo_1.jpg") as image:
        jpeg = encoded(image.resize((16, 12)), "JPEG", quality=50)
    corners = [-1, 1, -2, 1, 1, -2, 1, -1, -2, -1, -1, -2]
    parts = [
        struct.pack("<6f", 1, 2, 3, -1, 0, 0.5),
        struct.pack("<8H", 65535, 0, 9000, 65535, 100, 200, 300, 65535),
        struct.pack("<2f", 1.5, 7),
        struct.pack("<12f", *corners),
        jpeg + bytes(-len(jpeg) % 4),
    ]
    offsets = [sum(len(part) for part in parts[:index]) for index in range(len(parts))]
    document = {
        "asset": {"version": "2.0", "extras": {"metric": True}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1, 2], "translation": [10, 0, 0]},
            {"mesh": 0, "scale": [2, 2, 2]},
            {"name": "a.jpg", "camera": 0, "rotation": [0, 0, 0, 1], "children": [3]},
            {"mesh": 1},
        ],
        "meshes": [
            {"primitives": [{"mode": 0, "attributes": {"POSITION": 0, "COLOR_0": 1, "_CONFIDENCE": 2}}]},
            {"primitives": [{"material": 0, "attributes": {"POSITION": 3}}]},
        ],
        "cameras": [{"type": "perspective", "perspective": {"yfov": 0.9, "aspectRatio": 1.3333, "znear": 0.01}}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 4, "mimeType": "image/jpeg"}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 2, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 2, "type": "VEC4", "normalized": True},
            {"bufferView": 2, "componentType": 5126, "count": 2, "type": "SCALAR"},
            {"bufferView": 3, "componentType": 5126, "count": 4, "type": "VEC3"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": len(part)} for offset, part in zip(offsets, parts)
        ],
        "buffers": [{"byteLength": sum(len(part) for part in parts)}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary = b"".join(parts)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    save("glb", "camera", struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


if __name__ == "__main__":
    images()
    weights()
    cameras()
    clouds()
    predictions()
    files = [path for path in (HERE / "seeds").rglob("*") if path.is_file()]
    print(f"{len(files)} seeds, {sum(path.stat().st_size for path in files)} bytes")
