//! Figures from samples of a machine that does other things, too.

/// What some samples come to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// Half the width of the middle half of the samples, as a part of their median.
    pub noise: f64,
}

/// The sample in the middle; of an even number the upper one. Not a number where there is none.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&sorted(samples), 2)
}

/// The samples' median, and how far the middle half of them is from it.
pub fn spread(samples: impl IntoIterator<Item = f64>) -> Spread {
    let samples = sorted(samples);
    let median = quantile(&samples, 2);
    Spread { median, noise: (quantile(&samples, 3) - quantile(&samples, 1)) / 2.0 / median }
}

/// The spread of the ratios of paired samples: each pair was taken at nearly the same time, so what else the
/// machine did meets both.
pub fn paired_ratio(samples: &[f64], references: &[f64]) -> Spread {
    spread(samples.iter().zip(references).map(|(sample, reference)| sample / reference))
}

fn sorted(samples: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut samples: Vec<_> = samples.into_iter().collect();
    samples.sort_by(f64::total_cmp);
    samples
}

fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    sorted.get(sorted.len() * quarters / 4).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_mind_one_that_is_far_off() {
        assert_eq!(median([3.0, 1.0, 1_000.0, 2.0, 4.0]), 3.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn noise_is_half_the_middle_half() {
        let Spread { median, noise } = spread([10.0, 9.0, 8.0, 11.0, 12.0, 0.0, 500.0, 10.0]);
        assert_eq!(median, 10.0);
        assert_eq!(noise, (12.0 - 9.0) / 2.0 / 10.0);
    }

    #[test]
    fn ratios_are_of_pairs() {
        // The machine became ten times slower in between.
        let Spread { median, noise } = paired_ratio(&[2.0, 2.0, 20.0, 20.0], &[1.0, 1.0, 10.0, 10.0]);
        assert_eq!((median, noise), (2.0, 0.0));
    }
}
