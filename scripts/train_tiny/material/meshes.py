"""Reads furniture models (OBJ), reduces them and builds a BVH for each: `mesh_of` gives what `packs.save_meshes` writes."""

import pathlib
import re

import fast_simplification
import numpy as np
from PIL import Image

from material.packs import MAX_DEPTH

TRIANGLES, MOST_KEPT, MOST_READ, LEAF = 2400, 4000, 120_000, 4
MEDIAN_FROM = 13  # from this depth on a node is halved, which bounds the depth of the tree
TRANSPARENT = 0.4  # faces of a lower opacity are left out: window panes would hide what is behind them


def read_materials(path):
    """Name of a material -> (RGB 0..1, opacity)."""
    found, name = {}, None
    for line in path.read_text(errors="replace").splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        key = words[0].lower()
        if key == "newmtl":
            name = line.split(None, 1)[1].strip()
            found[name] = [np.full(3, 0.7), 1.0]
        elif name is None:
            continue
        elif key == "kd" and len(words) >= 4:
            found[name][0] = np.array(words[1:4], float)
        elif key == "d":
            found[name][1] = float(words[-1])
        elif key == "map_kd":
            picture = path.parent / line.split(None, 1)[1].strip().replace("\\", "/").split("/")[-1]
            if picture.is_file():
                with Image.open(picture) as image:
                    mean = np.asarray(image.convert("RGB").resize((8, 8), Image.BOX), float).mean((0, 1)) / 255
                found[name][0] = mean if found[name][0].max() < 0.05 else mean * found[name][0]
    return found


def read_obj(path):
    """Vertices (V, 3), triangles (T, 3), group of each triangle, and a (RGB, opacity) for each group."""
    vertices, faces, groups, materials, names = [], [], [], {}, {}
    group = names.setdefault("", 0)
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("v "):
            vertices.append(line.split()[1:4])
        elif line.startswith("f "):
            corners = [int(word.split("/", 1)[0]) for word in line.split()[1:]]
            corners = [c - 1 if c > 0 else c + len(vertices) for c in corners]
            for i in range(2, len(corners)):
                faces.append((corners[0], corners[i - 1], corners[i]))
                groups.append(group)
        elif line.startswith("usemtl"):
            group = names.setdefault(line[6:].strip(), len(names))
        elif line.startswith("mtllib"):
            library = path.parent / line[6:].strip()
            if library.is_file():
                materials.update(read_materials(library))
    looks = [materials.get(name, (np.full(3, 0.7), 1.0)) for name in names]
    return np.array(vertices, float).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3), np.array(groups), looks


def welded(vertices, faces):
    """Merges equal vertices, drops faces without area and doubled faces."""
    size = np.ptp(vertices, axis=0).max() or 1.0
    _, first, same = np.unique(np.round(vertices / size * 20_000).astype(np.int64), axis=0, return_index=True,
                               return_inverse=True)
    vertices, faces = vertices[first], same.reshape(-1)[faces]
    edges = vertices[faces[:, 1:]] - vertices[faces[:, :1]]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    faces = faces[area > 1e-9 * size * size]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    faces = faces[np.sort(first)]
    used, same = np.unique(faces, return_inverse=True)
    return vertices[used], same.reshape(-1, 3)


def reduced(vertices, faces, groups, limit):
    """At most about `limit` triangles; each group is reduced by itself, so that borders of materials stay."""
    share = min(1.0, limit / len(faces))
    parts, offset = [], 0
    for group in np.unique(groups):
        v, f = welded(vertices, faces[groups == group])
        if share < 1 and len(f) > 24:
            v, f = fast_simplification.simplify(v.astype(np.float32), f.astype(np.int32), target_reduction=1 - share, agg=5)
            v, f = welded(v.astype(float), f.astype(np.int64)) if len(f) else (v, f)
        if len(f):
            parts.append((v, f + offset, np.full(len(f), group)))
            offset += len(v)
    return tuple(np.concatenate(part) for part in zip(*parts)) if parts else None


def split(low, high, order, depth):
    """Sizes and order of the two halves of a node by the surface area heuristic, or by halves where the tree is deep."""
    centre = low[order] + high[order]
    if depth >= MEDIAN_FROM:
        axis = np.ptp(centre, axis=0).argmax()
        return order[np.argsort(centre[:, axis], kind="stable")], len(order) // 2
    best = None
    for axis in range(3):
        o = order[np.argsort(centre[:, axis], kind="stable")]
        ahead = np.maximum.accumulate(high[o]) - np.minimum.accumulate(low[o])
        behind = (np.maximum.accumulate(high[o[::-1]]) - np.minimum.accumulate(low[o[::-1]]))[::-1]
        area = lambda e: e[:, 0] * e[:, 1] + e[:, 1] * e[:, 2] + e[:, 2] * e[:, 0]
        left = np.arange(1, len(o))
        cost = area(ahead)[:-1] * left + area(behind)[1:] * (len(o) - left)
        at = cost.argmin()
        if best is None or cost[at] < best[0]:
            best = cost[at], o, at + 1
    return best[1:]


def build_bvh(low, high):
    """Order of the triangles, and `links` and `counts` of the nodes (see packs.py), from the triangles' bounds."""
    links, counts, done = [0], [0], []
    stack = [(0, np.arange(len(low)), 1)]
    while stack:
        node, order, depth = stack.pop()
        if len(order) <= LEAF:
            links[node], counts[node] = len(done), len(order)
            done.extend(order)
            continue
        if depth >= MAX_DEPTH:
            raise ValueError(f"a tree deeper than {MAX_DEPTH}")
        order, left = split(low, high, order, depth)
        links[node], counts[node] = len(links), -1
        links += [0, 0]
        counts += [0, 0]
        stack += [(links[node] + 1, order[left:], depth + 1), (links[node], order[:left], depth + 1)]
    return np.array(done), np.array(links), np.array(counts)


def mesh_of(vertices, faces, groups, looks, size=None, person=False, limit=TRIANGLES):
    """One mesh as `packs.save_meshes` takes it, from vertices with z up, or None where nothing solid is in it.

    `size`: true width, depth and height in metres, where they are known.
    """
    solid = np.array([opacity >= TRANSPARENT for _, opacity in looks])[groups] if len(faces) else np.zeros(0, bool)
    if not solid.any():
        return None
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    extent = np.ptp(vertices, axis=0)
    if size is not None and (extent > 1e-6).all():
        vertices = vertices / extent * size
    made = reduced(vertices, faces[solid], groups[solid], limit)
    if made is None or len(made[1]) > MOST_KEPT:  # many loose parts, such as leaves, cannot be reduced
        return None
    vertices, faces, groups = made
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    true_size = np.abs(vertices).max()
    vertices = np.round((np.clip(vertices / true_size, -1, 1) + 1) * 32767.5)
    edges = vertices[faces[:, 1:]] - vertices[faces[:, :1]]
    keep = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) > 0
    faces, groups = faces[keep], groups[keep]
    if len(faces) < 8 or len(vertices) > 65_535:
        return None
    used, groups = np.unique(groups, return_inverse=True)
    corners = vertices[faces]
    order, links, counts = build_bvh(corners.min(1), corners.max(1))
    colours = np.array([np.clip(looks[g][0], 0.02, 0.98) for g in used])
    # Vertices in the order in which triangles name them: neighbours in the file are neighbours in space, which packs better.
    faces = faces[order]
    _, first = np.unique(faces.ravel(), return_index=True)
    named = faces.ravel()[np.sort(first)]
    renumbered = np.empty(len(vertices), np.int64)
    renumbered[named] = np.arange(len(named))
    half = np.ptp(vertices[named], axis=0) / 65_535
    return {"vertices": vertices[named], "faces": renumbered[faces], "groups": groups[order], "links": links,
            "counts": counts, "group_colours": np.round(colours * 255), "extents": [*half, true_size, float(person)]}


def read_catalogue(path):
    """Entries of a Sweet Home 3D furniture catalogue as dictionaries."""
    entries = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        match = re.match(r"(\w+)#(\d+)=(.*)", line)
        if match:
            entries.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    return [entries[i] for i in sorted(entries)]


def furniture(folder):
    """(mesh or None, title, author, model's path within the folder) of each model in an unpacked furniture library."""
    for entry in read_catalogue(folder / "PluginFurnitureCatalog.properties"):
        path = folder / entry["model"].lstrip("/")
        if path.suffix.lower() != ".obj" or not path.is_file():
            continue
        vertices, faces, groups, looks = read_obj(path)
        mesh = None
        if 8 <= len(faces) <= MOST_READ:
            if "modelRotation" in entry:
                vertices = vertices @ np.array(entry["modelRotation"].split(), float).reshape(3, 3).T
            vertices = vertices @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # y up to z up
            size = np.array([float(entry[key]) for key in ("width", "depth", "height")]) / 100
            mesh = mesh_of(vertices, faces, groups, looks, size, entry.get("category") == "Characters")
        yield mesh, entry["name"], entry.get("creator", ""), str(pathlib.Path(entry["model"].lstrip("/")))
