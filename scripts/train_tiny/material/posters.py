"""Draws printed matter with free fonts: pages, signs, covers, labels, calendars, charts. Nothing of it is anyone's work."""

import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from material.packs import SIDE

FONTS = pathlib.Path("/usr/share/fonts/truetype/dejavu")  # Debian's fonts-dejavu
DRAWN = 2 * SIDE  # drawn large, then halved
SYLLABLES = "ka ro min ta lu ves or an del si mo ti ger pa lin do ren as ul be cor fa nu est".split()


def word(dice):
    return "".join(dice.choice(SYLLABLES) for _ in range(dice.integers(1, 5)))


def text(dice, words):
    made = " ".join(word(dice) for _ in range(words))
    return made.capitalize()


def font(dice, size):
    files = sorted(FONTS.glob("*.ttf"))
    if not files:
        raise FileNotFoundError(f"{FONTS}: no fonts (*.ttf); install the Debian package fonts-dejavu")
    return ImageFont.truetype(str(dice.choice(files)), int(size))


def colours(dice):
    """Paper and ink that can be told apart."""
    while True:
        paper, ink = dice.integers(0, 256, (2, 3))
        if dice.random() < 0.5:
            paper = dice.integers(215, 256) - dice.integers(0, 25, 3)
        if abs(paper.mean() - ink.mean()) > 80:
            return tuple(map(int, paper)), tuple(map(int, ink))


def lines(draw, dice, box, size, ink):
    """Fills a box with lines of text."""
    x0, y0, x1, y1 = box
    face = font(dice, size)
    y = y0
    while y + size < y1:
        line = text(dice, 24)
        while len(line) > 1 and draw.textlength(line, face) > (x1 - x0) * (1.0 if dice.random() < 0.85 else 0.6):
            line = line[:-1]
        draw.text((x0, y), line, fill=ink, font=face)
        y += size * 1.35


def page(image, draw, dice, ink):
    columns, size, margin = dice.integers(1, 4), dice.uniform(9, 22), dice.uniform(20, 50)
    top = margin
    if dice.random() < 0.7:
        draw.text((margin, top), text(dice, 3), fill=ink, font=font(dice, size * 2.4))
        top += size * 4
    width = (DRAWN - 2 * margin + 16) / columns
    for column in range(columns):
        x = margin + column * width
        lines(draw, dice, (x, top, x + width - 16, DRAWN - margin), size, ink)


def sign(image, draw, dice, ink):
    size = dice.uniform(60, 150)
    if dice.random() < 0.6:
        inset = dice.uniform(8, 30)
        draw.rounded_rectangle((inset, inset, DRAWN - inset, DRAWN - inset), dice.uniform(0, 60), outline=ink,
                               width=int(dice.integers(4, 18)))
    for i in range(dice.integers(1, 4)):
        content = str(dice.integers(1, 1000)) if dice.random() < 0.3 else word(dice).upper()
        draw.text((DRAWN / 2, DRAWN * (0.22 + 0.28 * i)), content[:7], fill=ink, font=font(dice, size), anchor="mm")


def cover(image, draw, dice, ink):
    for _ in range(dice.integers(3, 12)):
        a, b = dice.uniform(-50, DRAWN + 50, (2, 2))
        box = (*np.minimum(a, b), *np.maximum(a, b))
        shape = (draw.ellipse, draw.rectangle)[dice.integers(2)]
        shape(box, fill=tuple(int(c) for c in dice.integers(0, 256, 3)))
    draw.text((DRAWN / 2, dice.uniform(60, 400)), word(dice).title(), fill=ink, font=font(dice, dice.uniform(50, 110)), anchor="mm")
    draw.text((DRAWN / 2, DRAWN - 40), text(dice, 2), fill=ink, font=font(dice, 28), anchor="mm")


def spines(image, draw, dice, ink):
    x = 0.0
    while x < DRAWN:
        width = dice.uniform(18, 70)
        colour = tuple(int(c) for c in dice.integers(20, 240, 3))
        draw.rectangle((x, dice.uniform(0, 60), x + width, DRAWN), fill=colour, outline=(20, 20, 20))
        strip = Image.new("RGB", (DRAWN, int(width)), colour)
        light = 255 if sum(colour) < 380 else 10
        ImageDraw.Draw(strip).text((90, width / 2), text(dice, 3), fill=(light,) * 3, font=font(dice, width * 0.55), anchor="lm")
        image.paste(strip.rotate(90, expand=True).crop((0, 0, int(width), DRAWN - 70)), (int(x), 70))
        x += width


def calendar(image, draw, dice, ink):
    columns, rows = dice.integers(4, 9), dice.integers(4, 9)
    face = font(dice, 230 / max(columns, rows))
    for i in range(columns):
        for j in range(rows):
            x, y = DRAWN * (i + 0.1) / columns, DRAWN * (j + 0.1) / rows
            draw.rectangle((x, y, x + 0.85 * DRAWN / columns, y + 0.85 * DRAWN / rows), outline=ink, width=2,
                           fill=tuple(int(c) for c in dice.integers(120, 256, 3)) if dice.random() < 0.2 else None)
            draw.text((x + 6, y + 4), str(j * columns + i + 1), fill=ink, font=face)


def chart(image, draw, dice, ink):
    bars = dice.integers(5, 30)
    for i in range(bars):
        height = dice.uniform(30, 400)
        draw.rectangle((40 + i * 440 / bars, 470 - height, 40 + (i + 0.7) * 440 / bars, 470),
                       fill=tuple(int(c) for c in dice.integers(0, 256, 3)))
    for y in range(70, 471, 50):
        draw.line((40, y, 480, y), fill=ink, width=2)
        draw.text((4, y - 8), str(470 - y), fill=ink, font=font(dice, 15))
    draw.text((40, 10), text(dice, 4), fill=ink, font=font(dice, 30))


def plan(image, draw, dice, ink):
    """Streets and blocks as on a town map."""
    for _ in range(40):
        corner, size = dice.uniform(0, DRAWN, 2), dice.uniform(20, 120, 2)
        draw.rectangle((*corner, *(corner + size)), fill=tuple(int(c) for c in 170 + dice.integers(0, 80, 3)))
    for _ in range(dice.integers(6, 16)):
        points = np.cumsum(dice.normal(0, 60, (12, 2)) + dice.normal(0, 50, 2), 0) + dice.uniform(0, DRAWN, 2)
        draw.line([tuple(p) for p in points], fill=tuple(int(c) for c in dice.integers(60, 256, 3)), width=int(dice.integers(4, 16)))
    for _ in range(25):
        draw.text(tuple(dice.uniform(0, DRAWN - 60, 2)), word(dice).title(), fill=ink, font=font(dice, dice.uniform(12, 26)))


def poster(seed):
    """A tile (SIDE, SIDE, 3)."""
    dice = np.random.default_rng([seed, 77])
    paper, ink = colours(dice)
    image = Image.new("RGB", (DRAWN, DRAWN), paper)
    kinds = page, page, sign, sign, cover, cover, spines, calendar, chart, plan
    kinds[seed % len(kinds)](image, ImageDraw.Draw(image), dice, ink)
    return np.asarray(image.resize((SIDE, SIDE), Image.LANCZOS))
