use rand::{Rng, seq::index};

use super::Match;

/// Candidates chosen for the loss, as rising indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Candidates that stand for an object.
    pub positives: Vec<usize>,
    /// Candidates that are background.
    pub negatives: Vec<usize>,
}

/// Who chooses what a step learns from: any random generator, or whoever repeats another program's choice.
pub trait Draw {
    /// `amount` different numbers below `count`, in any order; `amount` is below `count`.
    fn draw(&mut self, count: usize, amount: usize) -> Vec<usize>;
}

impl<R: Rng> Draw for R {
    fn draw(&mut self, count: usize, amount: usize) -> Vec<usize> {
        index::sample(self, count, amount).into_vec()
    }
}

/// Draws candidates for the loss without replacement, positives up to a share, negatives for the rest
/// (torchvision 0.26 `BalancedPositiveNegativeSampler`).
///
/// Too few positives are made up for by negatives, too few negatives by nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalancedSampler {
    /// Candidates per image.
    pub batch_size: usize,
    /// Largest share of positives.
    pub positive_fraction: f32,
}

impl BalancedSampler {
    /// Chooses among the candidates of one image.
    pub fn sample<D: Draw>(&self, matches: &[Match], rng: &mut D) -> Sample {
        let indices_of = |is_wanted: fn(&Match) -> bool| -> Vec<usize> {
            matches.iter().enumerate().filter(|(_, found)| is_wanted(found)).map(|(index, _)| index).collect()
        };
        let max_positives = (self.batch_size as f32 * self.positive_fraction) as usize;
        let positives = choose(&indices_of(|found| matches!(found, Match::Object(_))), max_positives, rng);
        let num_negatives = self.batch_size - positives.len();
        let negatives = choose(&indices_of(|found| *found == Match::Background), num_negatives, rng);
        Sample { positives, negatives }
    }
}

/// At most `amount` of the `indices`, in their order.
fn choose<D: Draw>(indices: &[usize], amount: usize, rng: &mut D) -> Vec<usize> {
    if indices.len() <= amount {
        return indices.to_vec();
    }
    let mut chosen = rng.draw(indices.len(), amount);
    chosen.sort_unstable();
    chosen.into_iter().map(|position| indices[position]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const SAMPLER: BalancedSampler = BalancedSampler { batch_size: 8, positive_fraction: 0.25 };

    fn matches(num_objects: usize, num_background: usize) -> Vec<Match> {
        let mut matches = vec![Match::Ignored; 5];
        matches.extend((0..num_objects).map(Match::Object));
        matches.extend(vec![Match::Background; num_background]);
        matches
    }

    fn counts(num_objects: usize, num_background: usize) -> (usize, usize) {
        let matches = matches(num_objects, num_background);
        let sample = SAMPLER.sample(&matches, &mut ChaCha8Rng::seed_from_u64(1));
        assert!(sample.positives.iter().all(|&index| matches!(matches[index], Match::Object(_))));
        assert!(sample.negatives.iter().all(|&index| matches[index] == Match::Background));
        for indices in [&sample.positives, &sample.negatives] {
            assert!(indices.is_sorted_by(|a, b| a < b), "no index twice: {indices:?}");
        }
        (sample.positives.len(), sample.negatives.len())
    }

    #[test]
    fn positives_stop_at_their_share() {
        assert_eq!(counts(50, 50), (2, 6));
    }

    #[test]
    fn negatives_make_up_for_missing_positives_but_not_the_reverse() {
        assert_eq!(counts(1, 50), (1, 7));
        assert_eq!(counts(0, 50), (0, 8));
        assert_eq!(counts(50, 3), (2, 3));
        assert_eq!(counts(0, 0), (0, 0));
    }

    #[test]
    fn the_seed_decides_the_choice() {
        let matches = matches(50, 50);
        let draw = |seed| SAMPLER.sample(&matches, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
