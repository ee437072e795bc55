#!/usr/bin/env python3
"""Writes the licence texts of every crate that the program for TARGET is made of to standard output:
scripts/third_party_licenses.py TARGET [FEATURE ...]. What a binary has to come with."""

import json
import subprocess
import sys
from pathlib import Path

NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT")


def used(metadata, root):
    """Ids of the packages that `root` needs to run, without what only builds or tests it."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, left = set(), [root]
    while left:
        package = left.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    return found


def texts(package):
    """Name and content of the licence files in a package."""
    folder = Path(package["manifest_path"]).parent
    files = [path for path in sorted(folder.iterdir()) if path.name.upper().startswith(NAMES) and path.is_file()]
    if package["license_file"] and folder / package["license_file"] not in files:
        files.append(folder / package["license_file"])
    return [(path.name, path.read_text(encoding="utf-8", errors="replace").strip()) for path in files]


def main(target, *features):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target, "--manifest-path", "cli/Cargo.toml"]
    if features:
        command += ["--features", ",".join(features)]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    own = set(metadata["workspace_members"])
    others = [packages[id] for id in used(metadata, metadata["resolve"]["root"]) - own]
    print(f"mast3r for {target} contains these crates, under these licences.")
    shown = {}
    for package in sorted(others, key=lambda package: (package["name"], package["version"])):
        print(f"\n{'=' * 80}\n{package['name']} {package['version']}: {package['license'] or 'see below'}")
        if package["repository"]:
            print(package["repository"])
        if not texts(package):
            print("(the crate has no licence file)")
        for name, text in texts(package):
            # Most are the same few texts.
            if text in shown:
                print(f"\n{name}: as {shown[text]}")
            else:
                shown[text] = f"{name} of {package['name']}"
                print(f"\n{name}:\n\n{text}")
    library = Path(__file__).parent.parent / "src/export/viewer/three"
    print(f"\n{'=' * 80}\nthree.js, in pages: MIT\nhttps://threejs.org\n")
    print((library / "LICENSE").read_text(encoding="utf-8").strip())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8")
    main(*sys.argv[1:])
