use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::structures::ImageSize;

/// Which part of every epoch one process handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Number of this process, `0..count`.
    pub rank: usize,
    /// Number of processes.
    pub count: usize,
}

impl Default for Shard {
    /// One process that handles everything.
    fn default() -> Self {
        Self { rank: 0, count: 1 }
    }
}

/// What a stream of random numbers is for; streams of different purpose never coincide.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// The order of images and batches.
    Order,
    /// The transform of the image in this place of the epoch.
    Transform {
        /// Place in the epoch, counted over all shards.
        place: u64,
    },
}

/// The random numbers for one purpose in one epoch: the same whatever was drawn before, by whichever worker.
pub(super) fn stream(seed: u64, epoch: usize, purpose: Purpose) -> ChaCha8Rng {
    let (kind, place) = match purpose {
        Purpose::Order => (0, 0),
        Purpose::Transform { place } => (1, place),
    };
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, epoch as u64, kind, place]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Images of similar shape, so that a batch wastes little on padding: wide ones (w > h) and all others.
pub(super) fn aspect_groups(images: impl Iterator<Item = (usize, ImageSize)>) -> Vec<Vec<usize>> {
    let (wide, tall): (Vec<_>, Vec<_>) = images.partition(|(_, size)| size.width > size.height);
    [wide, tall]
        .into_iter()
        .filter(|group| !group.is_empty())
        .map(|group| group.into_iter().map(|(index, _)| index).collect())
        .collect()
}

/// Batches of one epoch; shards split each of them.
///
/// Every group is shuffled, filled up by repeating its head to whole batches, cut into batches; then the batches are
/// shuffled (the sampler of the published recipes, mmdetection 0.6 `DistributedGroupSampler`, for one process).
pub(super) fn epoch_batches(groups: &[Vec<usize>], batch_size: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let mut batches = Vec::new();
    for group in groups {
        let mut shuffled = group.clone();
        shuffled.shuffle(rng);
        let filled = group.len().next_multiple_of(batch_size);
        let images: Vec<usize> = shuffled.iter().copied().cycle().take(filled).collect();
        batches.extend(images.chunks_exact(batch_size).map(<[usize]>::to_vec));
    }
    batches.shuffle(rng);
    batches
}

/// Steps of one epoch.
pub(super) fn num_steps(groups: &[Vec<usize>], batch_size: usize) -> usize {
    groups.iter().map(|group| group.len().div_ceil(batch_size)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn batches(groups: &[Vec<usize>], batch_size: usize, epoch: usize) -> Vec<Vec<usize>> {
        epoch_batches(groups, batch_size, &mut stream(7, epoch, Purpose::Order))
    }

    #[test]
    fn every_image_appears_and_batches_do_not_mix_groups() {
        let groups = [(0..13).collect::<Vec<_>>(), (13..20).collect()];
        let all = batches(&groups, 4, 0);
        assert_eq!(all.len(), num_steps(&groups, 4));
        assert_eq!(all.iter().flatten().copied().collect::<HashSet<_>>(), (0..20).collect());
        assert!(all.iter().all(|batch| batch.iter().all(|&i| i < 13) || batch.iter().all(|&i| i >= 13)));
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_only() {
        let groups = [(0..64).collect::<Vec<_>>()];
        assert_eq!(batches(&groups, 4, 3), batches(&groups, 4, 3));
        assert_ne!(batches(&groups, 4, 3), batches(&groups, 4, 4));
        let other_seed = epoch_batches(&groups, 4, &mut stream(8, 3, Purpose::Order));
        assert_ne!(batches(&groups, 4, 3), other_seed);
    }

    #[test]
    fn a_group_smaller_than_a_batch_is_repeated() {
        assert_eq!(batches(&[vec![5]], 3, 0), [[5, 5, 5]]);
    }
}
