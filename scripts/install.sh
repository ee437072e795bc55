#!/bin/sh
# Installs a released mast3r on Linux or macOS:
#
#   install.sh [FOLDER]       # FOLDER/mast3r; ~/.local/bin if not given
#
# MAST3R_RELEASE is the address or the folder of a release; in the copy that a release has, it is
# that release's. The archive is checked against its SHA-256 before anything is installed.
set -eu

release=${MAST3R_RELEASE:-@RELEASE@}
folder=${1:-$HOME/.local/bin}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

case $release in
    @*) fail "set MAST3R_RELEASE to the address or the folder of a release" ;;
esac

case $(uname -s)-$(uname -m) in
    Linux-x86_64) target=x86_64-unknown-linux-gnu ;;
    Linux-aarch64) target=aarch64-unknown-linux-gnu ;;
    Darwin-arm64) target=aarch64-apple-darwin ;;
    *) fail "no binary for $(uname -s) on $(uname -m); build it: cargo install --locked --path cli" ;;
esac
archive=mast3r-$target.tar.gz

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
    case $release in
        *://*) curl --fail --silent --show-error --location --output "$work/$1" "$release/$1" ;;
        *) cp "$release/$1" "$work/$1" ;;
    esac || fail "$release/$1 cannot be read"
}
fetch "$archive"
fetch "$archive.sha256"

cd "$work"
if command -v sha256sum > /dev/null; then
    sha256sum --check --status "$archive.sha256"
else
    shasum -a 256 --check --status "$archive.sha256"
fi || fail "$archive: the SHA-256 is not that of $archive.sha256; nothing was installed"

tar -xzf "$archive"
mkdir -p "$folder"
# The new program takes its name at once: a copy that is running goes on.
cp "mast3r-$target/mast3r" "$folder/.mast3r.new"
mv -f "$folder/.mast3r.new" "$folder/mast3r"
"$folder/mast3r" --version
case :$PATH: in
    *:"$folder":*) ;;
    *) echo "$folder is not on the PATH" ;;
esac
