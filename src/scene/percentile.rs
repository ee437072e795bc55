//! The confidence that a share of all points reaches.

/// The smallest confidence among the most confident `percent` of `confidences`, of which there are
/// `total`, one at least.
pub(super) fn least_of_most_confident<I: Iterator<Item = f32>>(
    confidences: impl Fn() -> I,
    total: usize,
    percent: f32,
) -> f32 {
    let wanted = (f64::from(percent) * total as f64 / 100.0).round() as usize;
    let mut rank = total - wanted.clamp(1, total);
    // By halves of the bits, in the order of `f32::total_cmp`: a scene has too many points to sort.
    let key = |confidence: f32| {
        let bits = confidence.to_bits();
        bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
    };
    let mut half_of_rank = |halves: &mut dyn Iterator<Item = u32>| {
        let mut counts = vec![0usize; 1 << 16];
        halves.for_each(|half| counts[half as usize] += 1);
        let of_rank = counts.iter().position(|count| {
            let is_here = rank < *count;
            rank -= if is_here { 0 } else { *count };
            is_here
        });
        of_rank.unwrap_or(0) as u32
    };
    let high = half_of_rank(&mut confidences().map(|confidence| key(confidence) >> 16));
    let same = confidences().map(key).filter(|key| key >> 16 == high);
    let low = half_of_rank(&mut same.map(|key| key & 0xffff));
    let key = high << 16 | low;
    f32::from_bits(key ^ if key >> 31 == 1 { 1 << 31 } else { u32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_that_of_sorted_confidences() {
        let confidence = |step: u32| match step % 5 {
            0 => -(step as f32) / 7.0,
            1 => 1.0 + (step % 3) as f32 * 1e-7,
            _ => (step as f32).sqrt(),
        };
        let values: Vec<f32> = (0..1000)
            .map(|step| confidence(step * 7919 % 1000))
            .collect();
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        for percent in [0.01f32, 0.1, 20.0, 33.3, 50.0, 99.9, 100.0] {
            let wanted = ((f64::from(percent) * 10.0).round() as usize).max(1);
            let least = least_of_most_confident(|| values.iter().copied(), 1000, percent);
            assert_eq!(
                least.to_bits(),
                sorted[1000 - wanted].to_bits(),
                "{percent}"
            );
        }
    }
}
