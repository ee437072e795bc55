#!/usr/bin/env bash
# Makes the archive of a release: the program, its licences, completions and manual pages, and the
# archive's SHA-256.
#
#   scripts/package.sh TARGET BINARY FOLDER      # FOLDER/mast3r-TARGET.tar.gz (.zip on Windows), .sha256
#
# BINARY must run here: it makes its completions and manual pages itself.
set -euo pipefail
if [ $# != 3 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
target=$1 binary=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
cd "$(dirname "$0")/.."

name=mast3r-$target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=$work/$name
mkdir -p "$folder/completions" "$folder/man"

case $target in
    *windows*) program=mast3r.exe archive=$name.zip ;;
    *) program=mast3r archive=$name.tar.gz ;;
esac
install -m 755 "$binary" "$folder/$program"
cp README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT assets/tiny.ATTRIBUTION.md "$folder"
# shellcheck disable=SC2086 # a list of words
python3 scripts/third_party_licenses.py "$target" ${FEATURES:-} > "$folder/LICENSES-THIRD-PARTY.txt"
"$folder/$program" completions bash > "$folder/completions/mast3r.bash"
"$folder/$program" completions zsh > "$folder/completions/_mast3r"
"$folder/$program" completions fish > "$folder/completions/mast3r.fish"
"$folder/$program" completions powershell > "$folder/completions/_mast3r.ps1"
"$folder/$program" man --folder "$folder/man"

cd "$work"
rm -f "$out/$archive"
case $archive in
    *.zip) 7z a -bso0 "$out/$archive" "$name" ;;
    *) tar -czf "$out/$archive" "$name" ;;
esac
cd "$out"
if command -v sha256sum > /dev/null; then sha256sum "$archive"; else shasum -a 256 "$archive"; fi > "$archive.sha256"
cat "$archive.sha256"
