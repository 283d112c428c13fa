//! Medians, paired ratios, bootstrap intervals.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Resamples of the pairs.
const RESAMPLES: usize = 10_000;

/// The median; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// A ratio with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Median of `ours / theirs` over pairs of the same round, and the interval by resampling the pairs.
pub(crate) fn paired(pairs: &[(f64, f64)]) -> Option<Ratio> {
    let logs: Vec<f64> =
        pairs.iter().filter(|(_, theirs)| *theirs > 0.0).map(|(ours, theirs)| (ours / theirs).ln()).collect();
    let middle = median(&logs)?;
    // The same figures give the same interval.
    let mut random = StdRng::seed_from_u64(95);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let sample: Vec<f64> = logs.iter().map(|_| logs[random.random_range(0..logs.len())]).collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: usize| medians[(RESAMPLES - 1) * share / 1000].exp();
    Some(Ratio { median: middle.exp(), low: at(25), high: at(975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn pairs_are_compared_within_their_round() {
        // Rounds differ by a factor of ten, the ratio does not.
        let pairs = [(2.0, 1.0), (20.0, 10.0), (200.0, 100.0)];
        let ratio = paired(&pairs).unwrap();
        assert!((ratio.median - 2.0).abs() < 1e-9 && (ratio.low - 2.0).abs() < 1e-9 && (ratio.high - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_interval_holds_the_median_and_widens_with_noise() {
        let narrow = paired(&[(1.0, 1.0), (1.01, 1.0), (0.99, 1.0), (1.0, 1.0), (1.02, 1.0)]).unwrap();
        let wide = paired(&[(1.0, 1.0), (1.5, 1.0), (0.7, 1.0), (1.0, 1.0), (1.3, 1.0)]).unwrap();
        assert!(narrow.low <= narrow.median && narrow.median <= narrow.high);
        assert!(wide.high - wide.low > 5.0 * (narrow.high - narrow.low));
    }
}
