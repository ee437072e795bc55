#!/usr/bin/env python3
"""Checks that the links between the Markdown files lead to files and headings that exist."""

import os
import re
import subprocess
import sys


def prose(path):
    """A file without its code blocks."""
    with open(path, encoding="utf-8") as file:
        return re.sub(r"^```.*?^```", "", file.read(), flags=re.S | re.M)


def anchors(path):
    """The anchors that GitHub gives the headings of a file."""
    titles = re.findall(r"^#+ (.*)$", prose(path), flags=re.M)
    return [re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles]


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    listed = subprocess.run(["git", "ls-files", "*.md"], check=True, capture_output=True, text=True)
    # The introduction of BENCHMARKS.md, whose links begin there.
    files = [path for path in listed.stdout.split() if path != "docs/benchmarks/intro.md"]
    broken, count = [], 0
    for path in files:
        for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", prose(path)):
            link = link[0] or link[1]
            if re.match(r"[a-z]+:", link):
                continue
            count += 1
            name, _, anchor = link.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
            if not os.path.exists(target) or (anchor and anchor not in anchors(target)):
                broken.append(f"{path}: {link}")
    print(f"{count} links in {len(files)} files")
    if broken or not count:
        sys.exit("broken links:\n" + "\n".join(broken))


if __name__ == "__main__":
    main()
