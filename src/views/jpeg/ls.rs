//! JPEG-LS (ITU-T T.87): samples predicted from their neighbours, by contexts that learn, and runs
//! of equal ones.

use super::super::header::Failure;
use super::color::{Plane, put};
use super::frame::{Frame, Scan, Tables};
use super::scan::short_of_data;

/// Contexts of gradients, without their signs; two more are those of ends of runs.
const GRADIENTS: usize = 365;
const LONGEST_RUN: usize = 31;
/// Bits of the length of a run, by how many runs came before.
const RUN_BITS: [u32; LONGEST_RUN + 1] = [
    0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13,
    14, 15,
];

/// What the samples of a context taught it.
#[derive(Clone, Copy)]
struct Context {
    /// The sums of errors' sizes and of errors, and how many there were.
    size: i64,
    bias: i64,
    count: i64,
    /// What is added to predictions. Of ends of runs: how many errors were negative.
    correction: i64,
}

/// The numbers of a scan.
struct Rules {
    highest: i64,
    thresholds: [i64; 3],
    reset: i64,
    /// Largest difference of a decoded sample from the original.
    near: i64,
    /// Distance of two errors.
    step: i64,
    /// How many errors there are.
    range: i64,
    /// Bits of an error, and of the longest code.
    error_bits: u32,
    limit: u32,
}

impl Rules {
    fn new(frame: &Frame, near: i64, set: [u16; 5]) -> Result<Self, Failure> {
        let wrong = || Failure::Damaged("parameters of JPEG-LS".to_owned());
        let [highest, t1, t2, t3, reset] = set.map(i64::from);
        let all = (1 << frame.precision) - 1;
        let highest = if highest == 0 { all } else { highest };
        if highest > all || near > (highest / 2).min(255) {
            return Err(wrong());
        }
        let bounded = |value: i64, lowest: i64| {
            if value > highest || value < lowest {
                lowest
            } else {
                value
            }
        };
        let standard = |least: i64, factored: i64, nears: i64| match highest >= 128 {
            true => (highest.min(4095) + 128) / 256 * (factored - least) + least + nears * near,
            false => least.max(factored / (256 / (highest + 1)) + nears * near),
        };
        let first = bounded(standard(2, 3, 3), near + 1);
        let second = bounded(standard(3, 7, 5), first);
        let third = bounded(standard(4, 21, 7), second);
        let or = |set: i64, standard: i64| if set == 0 { standard } else { set };
        let thresholds = [or(t1, first), or(t2, second), or(t3, third)];
        let [t1, t2, t3] = thresholds;
        let reset = or(reset, 64);
        if !(near < t1 && t1 <= t2 && t2 <= t3 && t3 <= highest && reset >= 3) {
            return Err(wrong());
        }
        let step = 2 * near + 1;
        let range = (highest + 2 * near) / step + 1;
        let bits_of = |count: i64| (count as u32).next_power_of_two().trailing_zeros();
        let bits = bits_of(highest + 1).max(2);
        let limit = 2 * (bits + bits.max(8));
        Ok(Self {
            highest,
            thresholds,
            reset,
            near,
            step,
            range,
            error_bits: bits_of(range),
            limit,
        })
    }

    /// A gradient's class, from -4 to 4.
    fn class(&self, gradient: i64) -> i64 {
        let [t1, t2, t3] = self.thresholds;
        let size = gradient.abs();
        let class = match () {
            () if size <= self.near => 0,
            () if size < t1 => 1,
            () if size < t2 => 2,
            () if size < t3 => 3,
            () => 4,
        };
        if gradient < 0 { -class } else { class }
    }

    /// A sample from its prediction and its error.
    fn sample(&self, prediction: i64, error: i64) -> u16 {
        let value = prediction + error * self.step;
        let around = self.range * self.step;
        let value = match () {
            () if value < -self.near => value + around,
            () if value > self.highest + self.near => value - around,
            () => value,
        };
        value.clamp(0, self.highest) as u16
    }
}

/// Bits from coded data: behind a byte FF comes one bit that is always 0.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    window: u64,
    count: u32,
    after_ff: bool,
    /// Zeros that were added behind the end.
    added: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let next = self.bytes.get(self.at).copied();
            // A marker ends the data.
            let marker =
                next == Some(0xFF) && self.bytes.get(self.at + 1).is_none_or(|byte| *byte > 0x7F);
            let (byte, bits) = match next.filter(|_| !marker) {
                Some(byte) => {
                    self.at += 1;
                    (byte, if self.after_ff { 7 } else { 8 })
                }
                None => {
                    self.added = self.added.saturating_add(8);
                    (0, 8)
                }
            };
            self.after_ff = byte == 0xFF;
            self.window |= u64::from(byte) << (64 - bits) >> self.count;
            self.count += bits;
        }
    }

    fn take(&mut self, bits: u32) -> u32 {
        self.fill();
        let value = (self.window >> 1 >> (63 - bits)) as u32;
        self.window <<= bits;
        self.count -= bits;
        value
    }

    /// The value of a code for numbers that are rarely much larger than `2^k`.
    fn golomb(&mut self, k: u32, limit: u32, rules: &Rules) -> i64 {
        self.fill();
        // 64 at most.
        let zeros = self.window.leading_zeros().min(limit);
        let (zeros, escape) = match limit.checked_sub(rules.error_bits + 1) {
            Some(most) if zeros < most => (zeros, false),
            most => (most.unwrap_or(0), true),
        };
        self.take(zeros);
        self.take(1);
        let value = if escape {
            self.take(rules.error_bits) + 1
        } else {
            zeros << k | self.take(k)
        };
        value as i64
    }

    fn overrun(&self) -> bool {
        self.added > self.count
    }
}

/// One component of a scan.
struct Part {
    component: usize,
    /// The row before and this one, each with one sample more on either side.
    above: Vec<u16>,
    row: Vec<u16>,
}

/// The neighbours of a sample: left, above, above the left and above the right one.
type Neighbours = [i64; 4];

impl Part {
    fn neighbours(&self, x: usize) -> Neighbours {
        [
            self.row[x],
            self.above[x + 1],
            self.above[x],
            self.above[x + 2],
        ]
        .map(i64::from)
    }
}

struct Decoder<'a> {
    bits: Bits<'a>,
    rules: Rules,
    contexts: Vec<Context>,
}

impl Decoder<'_> {
    /// The context of a sample and the sign of its gradients, unless it has none.
    fn context(&self, [a, b, c, d]: Neighbours) -> (usize, i64) {
        let [first, second, third] =
            [d - b, b - c, c - a].map(|gradient| self.rules.class(gradient));
        let context = 81 * first + 9 * second + third;
        (
            context.unsigned_abs() as usize,
            if context < 0 { -1 } else { 1 },
        )
    }

    /// A sample by its context.
    fn regular(&mut self, neighbours: Neighbours) -> u16 {
        let (index, sign) = self.context(neighbours);
        let [a, b, c, _] = neighbours;
        let Self {
            bits,
            rules,
            contexts,
        } = self;
        let context = &mut contexts[index];
        let prediction = match () {
            () if c >= a.max(b) => a.min(b),
            () if c <= a.min(b) => a.max(b),
            () => a + b - c,
        };
        let prediction = (prediction + sign * context.correction).clamp(0, rules.highest);
        let k = exponent(context.count, context.size);
        let code = bits.golomb(k, rules.limit, rules);
        let mut error = if code & 1 == 0 {
            code >> 1
        } else {
            -(code >> 1) - 1
        };
        if rules.near == 0 && k == 0 && 2 * context.bias <= -context.count {
            error = -error - 1;
        }
        // Errors of damaged files may be of any size.
        let error = error.clamp(-rules.range, rules.range);
        context.size += error.abs();
        context.bias += error * rules.step;
        if context.count == rules.reset {
            (context.size, context.bias, context.count) =
                (context.size >> 1, context.bias >> 1, context.count >> 1);
        }
        context.count += 1;
        if context.bias <= -context.count {
            context.bias = (context.bias + context.count).max(1 - context.count);
            context.correction = (context.correction - 1).max(-128);
        } else if context.bias > 0 {
            context.bias = (context.bias - context.count).min(0);
            context.correction = (context.correction + 1).min(127);
        }
        rules.sample(prediction, sign * error)
    }

    /// The sample that ends a run; `runs` is how many there were, and `similar` whether its
    /// neighbours are alike.
    fn end_of_run(&mut self, [a, b, ..]: Neighbours, similar: bool, runs: usize) -> u16 {
        let Self {
            bits,
            rules,
            contexts,
        } = self;
        let context = &mut contexts[GRADIENTS + usize::from(similar)];
        let (kind, prediction) = if similar { (1, a) } else { (0, b) };
        let size = if similar {
            context.size + (context.count >> 1)
        } else {
            context.size
        };
        let k = exponent(context.count, size);
        let code = bits.golomb(k, rules.limit.saturating_sub(RUN_BITS[runs] + 1), rules);
        let doubled = code.saturating_add(kind);
        let odd = doubled & 1 == 1;
        let error = (doubled.saturating_add(1) >> 1).min(rules.range);
        let negative = (k != 0 || 2 * context.correction >= context.count) == odd;
        let error = if negative { -error } else { error };
        context.correction += i64::from(error < 0);
        context.size += ((code.saturating_add(1) - kind) >> 1).min(rules.range);
        if context.count == rules.reset {
            (context.size, context.count) = (context.size >> 1, context.count >> 1);
            context.correction >>= 1;
        }
        context.count += 1;
        let sign = if !similar && a > b { -1 } else { 1 };
        rules.sample(prediction, sign * error)
    }

    /// Decodes a row of components that take turns at each sample; one alone is such a group, too.
    fn row(&mut self, parts: &mut [Part], runs: &mut usize, width: usize) {
        let near = self.rules.near;
        for part in &mut *parts {
            part.row[0] = part.above[1];
            part.above[width + 1] = part.above[width];
        }
        let mut x = 0;
        while x < width {
            if parts
                .iter()
                .any(|part| self.context(part.neighbours(x)).0 != 0)
            {
                for part in &mut *parts {
                    part.row[x + 1] = self.regular(part.neighbours(x));
                }
                x += 1;
                continue;
            }
            let start = x;
            let mut ended = false;
            while x < width && !ended {
                let whole = 1 << RUN_BITS[*runs];
                let length = if self.bits.take(1) == 1 {
                    if whole <= width - x {
                        *runs = (*runs + 1).min(LONGEST_RUN);
                    }
                    whole
                } else {
                    ended = true;
                    self.bits.take(RUN_BITS[*runs]) as usize
                };
                x += length.min(width - x);
            }
            for part in &mut *parts {
                let level = part.row[start];
                part.row[start + 1..x + 1].fill(level);
            }
            if ended && x < width {
                let alone = parts.len() == 1;
                for part in &mut *parts {
                    let neighbours = part.neighbours(x);
                    let similar = alone && (neighbours[0] - neighbours[1]).abs() <= near;
                    part.row[x + 1] = self.end_of_run(neighbours, similar, *runs);
                }
                *runs = runs.saturating_sub(1);
                x += 1;
            }
        }
    }
}

/// The power of two by which a context's codes are scaled.
fn exponent(count: i64, size: i64) -> u32 {
    (0..16).find(|k| count << k >= size).unwrap_or(16)
}

/// Decodes a scan, and says where it ends.
pub(super) fn scan(
    bytes: &[u8],
    at: usize,
    frame: &Frame,
    scan: &Scan,
    tables: &Tables,
    planes: &mut [Option<Plane>],
) -> Result<usize, Failure> {
    let unsupported = |what: &str| Err(Failure::Unsupported(format!("JPEG-LS {what}")));
    let Scan {
        slots,
        first: near,
        last: turns,
        high,
        low,
    } = scan;
    if frame.h_max != 1 || frame.v_max != 1 {
        return unsupported("with subsampling");
    }
    if slots.iter().any(|slot| (slot.dc, slot.ac) != (0, 0)) {
        return unsupported("with a palette");
    }
    if (*high, *low) != (0, 0) {
        return unsupported("with a point transform");
    }
    if tables.restart_interval != 0 {
        return unsupported("with restart markers");
    }
    // Whether components take turns at each sample, or else at each row.
    let by_sample = match (slots.len(), turns) {
        (1, _) | (_, 2) => true,
        (_, 1) => false,
        _ => return Err(Failure::Damaged("a scan's components".to_owned())),
    };
    let rules = Rules::new(frame, *near as i64, tables.ls)?;
    let (width, precision) = (frame.width, frame.precision);
    let empty = Context {
        size: ((rules.range + 32) / 64).max(2),
        bias: 0,
        count: 1,
        correction: 0,
    };
    let bits = Bits {
        bytes,
        at,
        window: 0,
        count: 0,
        after_ff: false,
        added: 0,
    };
    let mut decoder = Decoder {
        bits,
        rules,
        contexts: vec![empty; GRADIENTS + 2],
    };
    let part = |component| Part {
        component,
        above: vec![0; width + 2],
        row: vec![0; width + 2],
    };
    let mut parts: Vec<Part> = slots.iter().map(|slot| part(slot.component)).collect();
    let mut runs = vec![0; parts.len()];
    for y in 0..frame.height {
        let group = if by_sample { parts.len() } else { 1 };
        for (parts, runs) in parts.chunks_mut(group).zip(&mut runs) {
            decoder.row(parts, runs, width);
        }
        if decoder.bits.overrun() {
            return Err(short_of_data(bytes, decoder.bits.at + 2));
        }
        for part in &mut parts {
            put(&mut planes[part.component], y, &part.row[1..], precision);
            std::mem::swap(&mut part.above, &mut part.row);
        }
    }
    Ok(decoder.bits.at)
}
