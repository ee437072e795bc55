#!/usr/bin/env bash
# Tests scripts/package.sh and scripts/install.sh with a built program: scripts/test_release.sh [BINARY]
set -euo pipefail
binary=$(realpath "${1:-target/release/mast3r}")
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "test_release.sh: $*" >&2
    exit 1
}

target=$(rustc -vV | sed -n 's/^host: //p')
./package.sh "$target" "$binary" "$work/release" > /dev/null
archive=$work/release/mast3r-$target.tar.gz
contents=$(tar -tzf "$archive")
for file in mast3r README.md LICENSE-MIT LICENSE-APACHE LICENSES-THIRD-PARTY.txt tiny.ATTRIBUTION.md \
    completions/_mast3r completions/mast3r.bash man/mast3r.1 man/mast3r-reconstruct.1; do
    grep -qx "mast3r-$target/$file" <<< "$contents" || fail "the archive lacks $file"
done

wanted=$("$binary" --version | head -n 1)
for release in "$work/release" "file://$work/release"; do
    MAST3R_RELEASE=$release sh install.sh "$work/bin" > /dev/null
    [ "$("$work/bin/mast3r" --version | head -n 1)" = "$wanted" ] || fail "$release: not installed"
    rm "$work/bin/mast3r"
done

echo damage >> "$archive"
if MAST3R_RELEASE=$work/release sh install.sh "$work/bin" 2> "$work/error"; then
    fail "a damaged archive was installed"
fi
grep -q 'SHA-256' "$work/error" || fail "no word of the checksum: $(cat "$work/error")"
[ ! -e "$work/bin/mast3r" ] || fail "a damaged archive left a program"
if env -u MAST3R_RELEASE sh install.sh "$work/bin" 2> "$work/error"; then
    fail "installed from nowhere"
fi
echo "package.sh and install.sh: ok"
