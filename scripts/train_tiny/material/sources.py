"""Lists the permissively licensed images of the packages that `fetch.sh` unpacked, with licence and author of each."""

import dataclasses
import fnmatch
import pathlib
import re

# Licence names of Debian's copyright files -> what ATTRIBUTION says. Anything else is not used.
LICENCES = {
    "CC0": "CC0-1.0", "CC0-1.0": "CC0-1.0", "public-domain": "public domain", "PD": "public domain",
    "FischKopF-public-domain": "public domain", "RaZgRiZ-simple-attribution": "attribution", "Expat": "MIT", "MIT": "MIT",
    "Zlib": "Zlib", "zlib": "Zlib", "Apache-2.0": "Apache-2.0", "CC-BY-2.0": "CC-BY-2.0", "CC-BY-3.0": "CC-BY-3.0",
    "CC-BY-3.0-USA": "CC-BY-3.0-US", "CC-BY-4.0": "CC-BY-4.0", "CC-BY-4.0 and CC-BY-3.0": "CC-BY-4.0 and CC-BY-3.0",
}
IMAGES = {".jpg", ".jpeg", ".png", ".tga", ".webp"}
TEXTURE, PHOTO, POSTER = "texture", "photo", "poster"

# Names of maps that are not colours, of sprites and of parts of user interfaces.
NOT_COLOUR = re.compile(
    r"[-_.](norm|norn|nm|nmap|normal|normals|normalmap|bump|bumpmap|gloss|glossy|spec|specular|local|rough|roughness|glow|luma|"
    r"luminance|reflect|shirt|pants|mask|height|disp|displacement|alpha|emit|emissive|occlusion|ao|metallic|metal_rough|lm|gs|sm|"
    r"n|s|h|z|i|ill|lightmap|colorizationmask|add|fx|blend)\.\w+$|"
    r"icon|/ao/|screenshot|preview|thumb|/gui/|font|logo|cursor|crosshair|particles|/fx/|/sfx/|flare|explos|flame|smoke|splat|"
    r"/lang/|achievement|minimap|/nodraw|_lm_|lightmap|raceline|shadow", re.I)

OTHERS_DESIGN = re.compile("euros|iphone|newspaper", re.I)  # banknotes and the like, whoever photographed them


@dataclasses.dataclass(frozen=True)
class Image:
    path: pathlib.Path
    package: str
    licence: str
    author: str
    kind: str  # TEXTURE, PHOTO (worth many crops) or POSTER (whole only)


def copyright_rules(path):
    """(pattern, licence, author) of each Files line of a Debian copyright file, in its order: the last match counts."""
    rules = []
    for stanza in re.split(r"\n\s*\n", path.read_text(errors="replace")):
        fields, key = {}, None
        for line in stanza.split("\n"):
            match = re.match(r"([A-Za-z-]+):\s*(.*)$", line)
            if match:
                key = match[1]
                fields[key] = match[2]
            elif key:
                fields[key] += "\n" + line.strip()
        if "Files" in fields and "License" in fields:
            author = " ".join(fields.get("Copyright", "").split())
            licence = fields["License"].split("\n")[0].strip()
            rules += [(re.compile(fnmatch.translate(glob)), licence, author) for glob in fields["Files"].split()]
    return rules


def licence_of(rules, names):
    """(licence as attributed, author) of a file that may be listed under one of `names`, or None where it is not permissive."""
    found = None
    for pattern, licence, author in rules:
        if any(pattern.match(name) for name in names):
            found = licence, author
    if found is None or found[0] not in LICENCES:
        return None
    return LICENCES[found[0]], found[1]


def images_below(folder, pattern=r"", without=r"$^"):
    for path in sorted(folder.rglob("*")):
        name = "/" + path.relative_to(folder).as_posix()
        if (path.suffix.lower() in IMAGES and path.is_file() and path.stat().st_size > 4000 and not NOT_COLOUR.search(name)
                and re.search(pattern, name) and not re.search(without, name)):
            yield path


def debian(root, package, folder, prefix, kind, **names):
    """Images of a Debian package below `folder`, whose paths in the copyright file start with `prefix`."""
    rules = copyright_rules(root / package / "usr/share/doc" / package / "copyright")
    for path in images_below(root / package / folder, **names):
        name = prefix + path.relative_to(root / package / folder).as_posix()
        stem = name.rsplit(".", 1)[0]  # some packages convert images when they are built
        listed = {name} | {stem + e for e in (".jpg", ".jpeg", ".png", ".JPG", ".webp", ".svg")}
        licence = licence_of(rules, listed)
        if licence:
            yield Image(path, package, *licence, kind)


def furniture(root):
    """Images that materials of the furniture models name."""
    libraries = {"BlendSwap-CC-0": ("CC0-1.0", "Emmanuel Puybaret and contributors of Blend Swap"),
                 "BlendSwap-CC-BY": ("CC-BY-3.0", "contributors of Blend Swap"),
                 "KatorLegaz": ("CC-BY-3.0-US", "Andrew Kator and Jennifer Legaz"), "Scopia": ("CC-BY-3.0", "Scopia")}
    for library, (licence, author) in libraries.items():
        folder, named = root / "sweethome3d-furniture" / library, set()
        for materials in folder.rglob("*.mtl"):
            for name in re.findall(r"map_K[da]\s+(.+)", materials.read_text(errors="replace")):
                path = materials.parent / name.strip().replace("\\", "/").split("/")[-1]
                if path.is_file() and path.suffix.lower() in IMAGES and not OTHERS_DESIGN.search(path.name):
                    named.add(path)
        yield from (Image(path, "sweethome3d-furniture", licence, author, TEXTURE) for path in sorted(named))


def wheel(root, package, folder, licence, author, kind, **names):
    for path in images_below(root / package / folder, **names):
        yield Image(path, package, licence, author, kind)


def images(root):
    root = pathlib.Path(root)
    # Photographs.
    yield from debian(root, "endless-sky-data", "usr/share/games/endless-sky/images/land", "images/land/", PHOTO)
    yield from debian(root, "endless-sky-data", "usr/share/games/endless-sky/images/scene", "images/scene/", PHOTO,
                      without="eso|geoscan|loc|army")
    yield from debian(root, "gcompris-qt-data", "unpacked/gcompris", "", PHOTO,
                      pattern="(categorization|explore_monuments|erase|details|explore_world_animals|explore_farm_animals|"
                      "explore_world_music|clickgame|leftright)/")
    yield from debian(root, "lomiri-wallpapers-16.04", "usr/share/backgrounds", "16.04/", PHOTO, without="umang|analogpattern")
    yield from wheel(root, "deepforest", "deepforest/data", "MIT", "deepforest's authors (NEON airborne images)", PHOTO)
    yield from wheel(root, "scikit_image", "skimage/data", "CC0-1.0 or public domain", "see skimage/data/README.txt", PHOTO,
                     pattern="/(coffee|chelsea|rocket)")
    yield from wheel(root, "scikit_image", "skimage/data", "CC0-1.0 or public domain", "see skimage/data/README.txt", TEXTURE,
                     pattern="/(brick|grass|gravel)")
    yield from wheel(root, "scikit_learn", "sklearn/datasets/images", "CC-BY-2.0",
                     "china.jpg: Filipe Fortes, flower.jpg: dany13 (Flickr)", PHOTO)
    # Materials.
    yield from furniture(root)
    yield from debian(root, "ufoai-textures", "base", "base/", TEXTURE)
    yield from debian(root, "supertuxkart-data", "usr/share/games/supertuxkart/data", "data/", TEXTURE,
                      without="/(karts|editor|skins|shaders)/")
    yield from debian(root, "redeclipse-data", "usr/share/games/redeclipse", "", TEXTURE,
                      pattern="data/(trak/trak[467]|philipk)")
    yield from debian(root, "mypaint-data-extras", "usr/share/mypaint/backgrounds", "backgrounds/", TEXTURE)
    yield from wheel(root, "miniworld", "miniworld/textures", "Apache-2.0", "Miniworld's authors", TEXTURE,
                     pattern="^/[^/]*$", without="logo|door_doom|lava|slime")
    yield from wheel(root, "miniworld", "miniworld/textures/portraits", "public domain", "the painter in the file's name", POSTER)
    yield from wheel(root, "robosuite", "robosuite/models/assets/textures", "MIT", "robosuite's authors", TEXTURE,
                     without="soda|can|cereal|bread|milk|lemon")
    yield from wheel(root, "metaworld", "metaworld/assets", "MIT", "Meta-World's authors", TEXTURE, without="soda|can|cereal")
    yield from wheel(root, "vpython", "vpython/vpython_libraries/images", "MIT", "VPython's authors", TEXTURE)
    yield from wheel(root, "vpython", "vpython/vpython_data", "MIT", "VPython's authors", TEXTURE)
    yield from wheel(root, "panda3d", "panda3d/models/maps", "BSD-3-Clause", "Carnegie Mellon University", TEXTURE,
                     pattern="envir-(bamboo|ground|groundcover|mountain|reeds|rock|tree)")
