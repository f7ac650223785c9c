//! Which process gets which images of a step.

use std::cmp::Reverse;

use crate::structures::ImageSize;

/// An object costs a training step about as much as so many pixels: on the nuclei (recipes/nuclei_mask_rcnn_r18_cbn.toml, one image, one thread, 192
/// steps) a step took 1.3 ms for 1000 pixels, padding included, and 0.58 ms for an object, up to the 64 regions of an image that are
/// matched with one.
const PIXELS_OF_AN_OBJECT: usize = 450;
const MAX_OBJECTS: usize = 64;

/// More are not worth the time where hundreds of images are dealt.
const MAX_EXCHANGES: usize = 64;

/// What an image of a batch costs, as far as that is known before its random transform is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Alone in a batch, padding included.
    pub(super) size: ImageSize,
    pub(super) num_objects: usize,
}

/// About what the step costs a process that has these images, in pixels: all are padded to the largest height and width.
fn cost(loads: &[Load], places: &[usize]) -> usize {
    let of = |value: fn(&Load) -> usize| places.iter().map(move |&place| value(&loads[place]));
    let side = |side: fn(&Load) -> usize| of(side).max().unwrap_or(0);
    let pixels = places.len() * side(|load| load.size.height) * side(|load| load.size.width);
    pixels + PIXELS_OF_AN_OBJECT * of(|load| load.num_objects.min(MAX_OBJECTS)).sum::<usize>()
}

/// Places in a batch for each shard, ascending: as many for each, and so that the one with the most to do, for which the others wait in every step, has little.
///
/// They are dealt from the heaviest image to the lightest, always to the shard with the least so far (Graham 1969, longest processing time first).
/// Then the heaviest shard exchanges an image with another, the best pair of all, for as long as that leaves both lighter than it was.
pub(super) fn deal(loads: &[Load], num_shards: usize) -> Vec<Vec<usize>> {
    let mut shards = deal_heaviest_first(loads, num_shards);
    for _ in 0..MAX_EXCHANGES {
        let heaviest = (0..num_shards).max_by_key(|&shard| (cost(loads, &shards[shard]), Reverse(shard))).unwrap_or(0);
        match best_exchange(loads, &shards, heaviest) {
            Some((other, exchanged)) => [shards[heaviest], shards[other]] = exchanged,
            None => break,
        }
    }
    for places in &mut shards {
        places.sort_unstable();
    }
    shards
}

fn deal_heaviest_first(loads: &[Load], num_shards: usize) -> Vec<Vec<usize>> {
    let own = loads.len() / num_shards;
    let mut shards = vec![(0, Vec::with_capacity(own)); num_shards];
    let alone = |place: usize| cost(loads, &[place]);
    let mut heaviest_first: Vec<usize> = (0..loads.len()).collect();
    heaviest_first.sort_by_key(|&place| Reverse(alone(place)));
    for place in heaviest_first {
        let with_room = shards.iter_mut().filter(|(_, places)| places.len() < own);
        if let Some((load, places)) = with_room.min_by_key(|(load, _)| *load) {
            *load += alone(place);
            places.push(place);
        }
    }
    shards.into_iter().map(|(_, places)| places).collect()
}

/// With whom the heaviest shard exchanges an image, and what both have then; none if one of them would have no less than it has now.
fn best_exchange(loads: &[Load], shards: &[Vec<usize>], heaviest: usize) -> Option<(usize, [Vec<usize>; 2])> {
    let mut least = cost(loads, &shards[heaviest]);
    let mut best = None;
    for (other, places) in shards.iter().enumerate().filter(|&(other, _)| other != heaviest) {
        for (own_index, &own_place) in shards[heaviest].iter().enumerate() {
            for (index, &place) in places.iter().enumerate() {
                let mut exchanged = [shards[heaviest].clone(), places.clone()];
                (exchanged[0][own_index], exchanged[1][index]) = (place, own_place);
                let heavier = cost(loads, &exchanged[0]).max(cost(loads, &exchanged[1]));
                if heavier < least {
                    least = heavier;
                    best = Some((other, exchanged));
                }
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of one size, with so many objects.
    fn with_objects(objects: &[usize]) -> Vec<Load> {
        objects.iter().map(|&num_objects| Load { size: ImageSize::new(32, 32), num_objects }).collect()
    }

    fn heaviest(loads: &[Load], shards: &[Vec<usize>]) -> usize {
        shards.iter().map(|places| cost(loads, places)).max().unwrap()
    }

    #[test]
    fn heavy_images_go_to_different_shards() {
        assert_eq!(deal(&with_objects(&[1, 2, 9, 8]), 2), [[0, 2], [1, 3]]);
        // The second shard has least when the 3 comes, but no room for another one than that.
        assert_eq!(deal(&with_objects(&[9, 3, 4, 4]), 2), [[0, 1], [2, 3]]);
        assert_eq!(deal(&with_objects(&[5; 6]), 3), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(deal(&with_objects(&[1, 3, 2]), 1), [[0, 1, 2]]);
        // Above 64 regions, objects cost nothing: 70, 64 and 64 are alike.
        assert_eq!(deal(&with_objects(&[70, 64, 64, 1, 2, 3]), 3), [[0, 5], [1, 4], [2, 3]]);
    }

    #[test]
    fn images_that_pad_each_other_are_kept_apart() {
        let load = |height, width| Load { size: ImageSize::new(height, width), num_objects: 0 };
        let [wide, tall] = [load(32, 128), load(128, 32)];
        let loads = [wide, tall, tall, wide];
        assert_eq!(deal_heaviest_first(&loads, 2), [[0, 2], [1, 3]]);
        assert_eq!(deal(&loads, 2), [[1, 2], [0, 3]]);
    }

    /// Against all twenty splits of batches of six, by formula.
    #[test]
    fn exchanges_come_close_to_the_best_split() {
        let (mut dealt, mut exchanged, mut best) = (0, 0, 0);
        for batch in 0..200usize {
            let of = |place: usize| (batch * 6 + place) * 7919 % 1009;
            let sides = |place: usize| ImageSize::new(320 + 32 * (of(place) % 4), 320 + 32 * (of(place) % 7));
            let loads: Vec<Load> =
                (0..6).map(|place| Load { size: sides(place), num_objects: of(place) % 97 }).collect();
            dealt += heaviest(&loads, &deal_heaviest_first(&loads, 2));
            exchanged += heaviest(&loads, &deal(&loads, 2));
            let splits = (0..64u32).filter(|split| split.count_ones() == 3);
            let shards = |split: u32| [0, 1].map(|side| (0..6).filter(|&place| split >> place & 1 == side).collect());
            best += splits.map(|split| heaviest(&loads, &shards(split))).min().unwrap();
        }
        assert!(best <= exchanged && 4 * (exchanged - best) < dealt - best, "{dealt}, {exchanged}, best {best}");
    }
}
