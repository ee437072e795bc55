"""Formats of the packed training material, with one writer and one loader for each.

atlas.bin (little endian)
    4 bytes   b"ATL1"
    uint32    number of tiles N
    uint32 N  bytes of each tile
    uint8 N   kind of each tile: PICTURE (shown once, stretched over a surface), MATERIAL (may be repeated, with mirroring),
              CUTOUT (its alpha channel cuts a shape: foliage, fences)
    the tiles one after another, WebP, SIDE x SIDE pixels, RGB or RGBA

panoramas.npz
    images    uint8, the panoramas one after another, WebP, equirectangular, twice as wide as high
    bytes     int64 (P,) bytes of each
    size      int32 (P, 2) height and width
    scale     float32 (P,) radiance = scale * (byte / 255) ** 2, normalised to a mean of 0.5 over the sphere
    sun       float32 (P, 3) unit vector towards the brightest spot
    sun_power float32 (P, 3) RGB irradiance of what is brighter than `scale`, and so is missing from the image, on a surface that
              faces the sun; zero where nothing is (overcast, and panoramas of low dynamic range)
    upper     float32 (P, 3) mean RGB radiance of the upper hemisphere, clipped at `scale`
    kind      uint8 (P,) OUTDOOR, INDOOR or SKY (nothing but sky: its lower hemisphere is not ground)
  Directions: z is up. The image's centre column looks along +x, columns to the left along +y:
  direction(u, v) = (cos(a) cos(e), sin(a) cos(e), sin(e)) with a = 2 pi (0.5 - u), e = pi (0.5 - v), u and v in 0..1 from the
  upper left corner.

meshes.npz, quantised; `load_meshes` returns what a ray tracer reads:
    nodes     float32 (N, 8): lower corner, upper corner, a, b. Inner node: b = -1, children are nodes a and a + 1.
              Leaf: triangles a .. a + b - 1, b = 1..4. Indices count over all meshes. No path is longer than MAX_DEPTH nodes.
    triangles float32 (T, 12): corner, edge to the second corner, edge to the third, number of the group within the mesh, 0, 0.
              Faces have no reliable orientation: shade both sides.
    colours   float32 (T, 3): diffuse colour of the triangle, 0..1, not linear (as in the material file)
    meshes    float32 (M, 8): root node, number of triangles, half extents x y z of the bounding box, number of groups, true size
              (the largest half extent in metres), 1 for people and animals, else 0
  Each mesh is centred at the origin, z up, its largest half extent 1; it stands on z = -(half extent z).
  On disk: vertices uint16 (V, 3) for -1..1; faces uint16 (T, 3) into the mesh's own vertices; groups uint8 (T,);
  group_colours uint8 (G, 3); links int32 and counts int8 (N,) are a and b with indices counted within the mesh; sizes int32
  (M, 4) are numbers of vertices, triangles, groups and nodes; extents float32 (M, 5) the half extents, true size, people.
"""

import io
import pathlib
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

SIDE = 256
PICTURE, MATERIAL, CUTOUT = range(3)
OUTDOOR, INDOOR, SKY = range(3)
MAX_DEPTH = 26


def decode(data, mode):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def encode(pixels, quality):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def save_atlas(path, tiles, kinds):
    """`tiles`: encoded images, `kinds`: a number for each."""
    header = b"ATL1" + struct.pack(f"<I{len(tiles)}I", len(tiles), *map(len, tiles)) + bytes(kinds)
    pathlib.Path(path).write_bytes(header + b"".join(tiles))


def read_atlas(path):
    """What `save_atlas` was given: encoded images, and a number for each."""
    data = pathlib.Path(path).read_bytes()
    if data[:4] != b"ATL1":
        raise ValueError(f"{path}: not an atlas (starts with {data[:4]!r}, expected b'ATL1'); pack it again")
    count, = struct.unpack_from("<I", data, 4)
    sizes = np.frombuffer(data, "<u4", count, 8)
    kinds = np.frombuffer(data, np.uint8, count, 8 + 4 * count)
    ends = 8 + 5 * count + np.cumsum(sizes, dtype=np.int64)
    if ends[-1] != len(data):
        raise ValueError(f"{path}: {len(data)} bytes, expected {ends[-1]}; pack it again")
    return [data[end - size:end] for size, end in zip(sizes, ends)], kinds.copy()


def load_atlas(path):
    """`tiles` uint8 (N, SIDE, SIDE, 4) and `kinds` uint8 (N,)."""
    encoded, kinds = read_atlas(path)
    tiles = np.empty((len(encoded), SIDE, SIDE, 4), np.uint8)

    def fill(i):
        tiles[i] = decode(encoded[i], "RGBA")

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(encoded))))
    return {"tiles": tiles, "kinds": kinds}


def save_panoramas(path, panoramas):
    """`panoramas`: dictionaries with `image` (encoded) and the arrays above, without the leading axis."""
    arrays = {key: np.array([p[key] for p in panoramas], np.float32) for key in ("scale", "sun", "sun_power", "upper")}
    np.savez(path, images=np.frombuffer(b"".join(p["image"] for p in panoramas), np.uint8),
             bytes=np.array([len(p["image"]) for p in panoramas]), size=np.array([p["size"] for p in panoramas], np.int32),
             kind=np.array([p["kind"] for p in panoramas], np.uint8), **arrays)


def load_panoramas(path):
    """The arrays above, and `images` as a list of uint8 (height, width, 3)."""
    with np.load(path) as file:
        loaded = dict(file)
    data, ends = loaded["images"].tobytes(), np.cumsum(loaded.pop("bytes"))
    loaded["images"] = [decode(data[start:end], "RGB") for start, end in zip(np.append(0, ends[:-1]), ends)]
    return loaded


def save_npz(path, **arrays):
    """As `numpy.savez_compressed`, but with LZMA, which is a third smaller here; `numpy.load` reads it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as out:
                np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)


def save_meshes(path, meshes):
    """`meshes`: dictionaries with `vertices`, `faces`, `groups`, `group_colours`, `links`, `counts` and `extents`."""
    join = lambda key, kind: np.concatenate([np.asarray(m[key], kind) for m in meshes])
    sizes = [[len(m[key]) for key in ("vertices", "faces", "group_colours", "links")] for m in meshes]
    save_npz(path, vertices=join("vertices", np.uint16), faces=join("faces", np.uint16), groups=join("groups", np.uint8),
             group_colours=join("group_colours", np.uint8), links=join("links", np.int32), counts=join("counts", np.int8),
             sizes=np.array(sizes, np.int32), extents=np.array([m["extents"] for m in meshes], np.float32))


def starts(lengths):
    return np.cumsum(lengths) - lengths


def load_meshes(path):
    """`nodes`, `triangles`, `colours` and `meshes` as described above."""
    with np.load(path) as file:
        disk = dict(file)
    vertex_count, triangle_count, group_count, node_count = disk["sizes"].astype(np.int64).T
    mesh_of_triangle = np.repeat(np.arange(len(vertex_count)), triangle_count)
    mesh_of_node = np.repeat(np.arange(len(vertex_count)), node_count)

    points = (disk["vertices"] / np.float32(32767.5) - 1).astype(np.float32)
    corners = points[disk["faces"] + starts(vertex_count)[mesh_of_triangle][:, None]]
    triangles = np.zeros((len(corners), 12), np.float32)
    triangles[:, :3] = corners[:, 0]
    triangles[:, 3:6] = corners[:, 1] - corners[:, 0]
    triangles[:, 6:9] = corners[:, 2] - corners[:, 0]
    triangles[:, 9] = disk["groups"]
    colours = disk["group_colours"][disk["groups"] + starts(group_count)[mesh_of_triangle]] / np.float32(255)

    count = disk["counts"].astype(np.int64)
    inner = count < 0
    link = disk["links"] + np.where(inner, starts(node_count)[mesh_of_node], starts(triangle_count)[mesh_of_node])
    nodes = np.empty((len(count), 8), np.float32)
    nodes[:, 6], nodes[:, 7] = link, count
    low, high = corners.min(1), corners.max(1)
    leaves = np.flatnonzero(~inner)
    nodes[leaves, :3], nodes[leaves, 3:6] = low[link[leaves]], high[link[leaves]]
    for i in range(1, 4):
        longer = leaves[count[leaves] > i]
        nodes[longer, :3] = np.minimum(nodes[longer, :3], low[link[longer] + i])
        nodes[longer, 3:6] = np.maximum(nodes[longer, 3:6], high[link[longer] + i])
    levels, level = [], starts(node_count)
    while len(level := level[inner[level]]):
        levels.append(level)
        level = np.concatenate([link[level], link[level] + 1])
    for level in reversed(levels):
        nodes[level, :3] = np.minimum(nodes[link[level], :3], nodes[link[level] + 1, :3])
        nodes[level, 3:6] = np.maximum(nodes[link[level], 3:6], nodes[link[level] + 1, 3:6])

    extents = disk["extents"]
    meshes = np.column_stack([starts(node_count), triangle_count, extents[:, :3], group_count, extents[:, 3:]])
    return {"nodes": nodes, "triangles": triangles, "colours": colours, "meshes": meshes.astype(np.float32)}
