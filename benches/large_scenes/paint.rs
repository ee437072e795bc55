//! What the surfaces of the world look like: every one has patterns, dirt and posters of its own.

use nalgebra::Vector3;

use crate::world::{CELL, Hit, Surface, World, hash, unit};

pub type Colour = Vector3<f64>;

/// Waves of dirt, metres, from the longest.
const WAVES: [f64; 6] = [1.7, 0.8, 0.38, 0.18, 0.085, 0.04];
/// Posters hang in a grid of such a side, metres.
const POSTERS: f64 = 2.1;

/// The colour, 0 to 1, of what a ray meets.
pub fn colour(world: &World, hit: &Hit, from: &Vector3<f64>, ray: &Vector3<f64>) -> Colour {
    let at = from + ray * hit.distance;
    let (x, y) = hit.cell;
    let is_street = world.is_street(hit.cell);
    let seed = |part: i64| hash(x, y, 31 + part);
    let grey = Colour::repeat;
    let (normal, surface) = match hit.surface {
        Surface::Fog => return grey(0.7),
        Surface::Ceiling if is_street => return sky(ray),
        Surface::Ceiling => (-Vector3::z(), pattern(seed(0), at.x, at.y)),
        Surface::Floor => {
            let tiles = pattern(seed(1), at.x, at.y);
            (Vector3::z(), tiles)
        }
        Surface::Wall { axis, is_upper } => {
            let mut normal = Vector3::zeros();
            normal[axis] = if is_upper { -1.0 } else { 1.0 };
            let seed = seed(2 + 2 * axis as i64 + i64::from(is_upper));
            let (u, v) = (at[1 - axis], at.z);
            // Dirt gathers where the wall meets the floor.
            let edge = 1.0 - 0.4 * (-v / 0.12).exp();
            let wall = poster(seed, u, v).unwrap_or_else(|| pattern(seed, u, v));
            (normal, wall * edge)
        }
        Surface::Box {
            corner,
            axis,
            is_upper,
        } => {
            let mut normal = Vector3::zeros();
            normal[axis] = if is_upper { 1.0 } else { -1.0 };
            let seed = seed(10 + 6 * corner as i64 + 2 * axis as i64 + i64::from(is_upper));
            let (u, v) = match axis {
                0 => (at.y, at.z),
                1 => (at.x, at.z),
                _ => (at.x, at.y),
            };
            (normal, pattern(seed, u, v))
        }
    };
    surface
        .component_mul(&light(hit.cell, is_street, &at, &normal))
        .map(|c| c.clamp(0.0, 1.0))
}

/// A sun over the streets, a lamp of its own tint below each ceiling.
fn light(cell: (i64, i64), is_street: bool, at: &Vector3<f64>, normal: &Vector3<f64>) -> Colour {
    if is_street {
        let sun = Vector3::new(0.5, 0.3, 0.81);
        return Colour::new(1.05, 1.0, 0.93) * (0.6 + 0.45 * normal.dot(&sun).max(0.0));
    }
    let (x, y) = cell;
    let lamp = Vector3::new((x as f64 + 0.5) * CELL, (y as f64 + 0.5) * CELL, 2.9) - at;
    let lit = normal.dot(&lamp.normalize()).max(0.0) / (1.0 + lamp.norm_squared() / 60.0);
    let tint = tint(hash(x, y, 30), 0.05);
    let tint = tint / tint.mean();
    tint * (0.62 + 0.45 * lit)
}

fn sky(ray: &Vector3<f64>) -> Colour {
    let (u, v) = (4.0 * ray.x / (ray.z + 0.1), 4.0 * ray.y / (ray.z + 0.1));
    let cloud = (2.2 * dirt(99, 0.3 * u, 0.3 * v) + 0.3).clamp(0.0, 1.0);
    Colour::new(0.45, 0.62, 0.88).lerp(&Colour::repeat(0.93), cloud)
}

/// One of six kinds of surface, in two colours.
fn pattern(seed: u64, u: f64, v: f64) -> Colour {
    let [one, two] = [1, 2].map(|part| tint(mix(seed, part, 0), 0.12));
    let scale = 0.7 + 0.8 * unit(mix(seed, 3, 0));
    let (s, t) = (u / scale, v / scale);
    let clean = match mix(seed, 4, 0) % 6 {
        0 => one,
        1 => {
            // Bricks.
            let row = (t / 0.22).floor();
            let shifted = s / 0.5 + 0.5 * row.rem_euclid(2.0);
            let joint = (t / 0.22 - row).min(1.3 * (shifted - shifted.floor())) < 0.12;
            let own = unit(mix(seed, 100 + shifted.floor() as i64, row as i64));
            if joint { two } else { one * (0.65 + 0.5 * own) }
        }
        2 => {
            // Tiles.
            let (column, row) = ((s / 0.45).floor(), (t / 0.45).floor());
            let own = unit(mix(seed, 100 + column as i64, row as i64));
            one.lerp(&two, own)
        }
        3 => {
            // Planks.
            let row = (t / 0.24).floor();
            let own = mix(seed, 5, row as i64);
            let along = (s + 2.0 * unit(own)) / 1.9;
            let plank = unit(mix(own, along.floor() as i64, 1));
            let grain = smooth(own, 1.2 * s, 9.0 * t);
            one.lerp(&two, 0.5 * plank + 0.3 * grain)
        }
        4 => {
            // Wallpaper with dots.
            let (column, row) = ((s / 0.3).floor(), (t / 0.3).floor());
            let (a, b) = (s / 0.3 - column - 0.5, t / 0.3 - row - 0.5);
            let radius = 0.2 + 0.25 * unit(mix(seed, 100 + column as i64, row as i64));
            if a * a + b * b < radius * radius {
                two
            } else {
                one
            }
        }
        _ => one.lerp(
            &two,
            (0.5 + 2.0 * (smooth(seed, 1.6 * s, 1.6 * t) - 0.5)).clamp(0.0, 1.0),
        ),
    };
    clean * (1.0 + 1.1 * dirt(seed, u, v))
}

/// A poster, if one hangs there: discs, bars and letters of random colours and places.
fn poster(wall: u64, u: f64, v: f64) -> Option<Colour> {
    let (column, row) = ((u / POSTERS).floor(), (v / POSTERS).floor());
    let own = mix(wall, 500 + column as i64, row as i64);
    let random = |part: i64| unit(mix(own, part, 7));
    if random(0) < 0.35 {
        return None;
    }
    let half = [0.3 + 0.55 * random(1), 0.3 + 0.45 * random(2)];
    let middle = [
        (column + 0.5) * POSTERS + 0.3 * (random(3) - 0.5),
        row * POSTERS + 1.2 + 0.3 * (random(4) - 0.5),
    ];
    let [s, t] = [(u - middle[0]) / half[0], (v - middle[1]) / half[1]];
    if s.abs().max(t.abs()) > 1.0 {
        return None;
    }
    let ink = |part: i64| tint(mix(own, part, 8), 0.3);
    if s.abs().max(t.abs()) > 0.92 {
        return Some(ink(0) * 0.4);
    }
    let mut colour = ink(1).lerp(&ink(2), smooth(own, 2.0 * s, 2.0 * t));
    for shape in 0..6 {
        let at = |part: i64| 2.0 * random(10 + 5 * shape + part) - 1.0;
        let (a, b) = (s - 0.8 * at(0), t - 0.8 * at(1));
        let size = 0.25 + 0.2 * at(2);
        let is_inside = if at(3) < 0.0 {
            a * a + b * b < size * size
        } else {
            let angle = 3.0 * at(4);
            let (a, b) = (
                a * angle.cos() + b * angle.sin(),
                b * angle.cos() - a * angle.sin(),
            );
            a.abs() < 2.0 * size && b.abs() < 0.3 * size
        };
        if is_inside {
            colour = ink(3 + shape);
        }
    }
    // Lines of letters.
    let (letter, line) = ((s * half[0] / 0.045).floor(), (t * half[1] / 0.08).floor());
    if t < -0.4 + 0.4 * random(5)
        && line as i64 % 2 == 0
        && !mix(own, letter as i64, line as i64).is_multiple_of(3)
    {
        colour *= 0.25;
    }
    Some(colour * (1.0 + 0.4 * dirt(own, u, v)))
}

/// Brightness that changes from place to place, about -0.4 to 0.4.
fn dirt(seed: u64, u: f64, v: f64) -> f64 {
    let wave = |(level, &length): (usize, &f64)| {
        let own = seed.wrapping_add(level as u64);
        (smooth(own, u / length, v / length) - 0.5) * 0.8f64.powi(level as i32)
    };
    0.35 * WAVES.iter().enumerate().map(wave).sum::<f64>()
}

/// Of random hue; `vivid` is how far from grey.
fn tint(random: u64, vivid: f64) -> Colour {
    let bright = 0.3 + 0.5 * unit(mix(random, 0, 1));
    Colour::from_fn(|channel, _| {
        (bright + 2.0 * vivid * (unit(mix(random, channel as i64, 2)) - 0.5)).clamp(0.05, 0.95)
    })
}

/// Random values at whole numbers, joined smoothly.
fn smooth(seed: u64, u: f64, v: f64) -> f64 {
    let (left, top) = (u.floor(), v.floor());
    let ease = |t: f64| t * t * (3.0 - 2.0 * t);
    let (s, t) = (ease(u - left), ease(v - top));
    let (x, y) = (left as i64, top as i64);
    let row = |y: i64| unit(mix(seed, x, y)) * (1.0 - s) + unit(mix(seed, x + 1, y)) * s;
    row(y) * (1.0 - t) + row(y + 1) * t
}

fn mix(seed: u64, x: i64, y: i64) -> u64 {
    // The finaliser of MurmurHash3, Appleby.
    let mut mixed = seed ^ hash(x, y, 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}
