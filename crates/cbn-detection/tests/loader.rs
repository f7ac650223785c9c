//! Batches: the same whatever the workers do, split over shards, resumable; and what the synthetic data look like.

#![allow(clippy::unwrap_used, reason = "a broken fixture fails the test")]

mod common;

use cbn_detection::data::synthetic::{SyntheticConfig, generate};
use cbn_detection::data::{
    DataPaths, Dataset, LoaderConfig, Severity, Shard, Split, SplitPaths, TestLoader, TrainLoader, TransformConfig,
    check,
};
use cbn_detection::recipe::{Recipe, train_loader, transform as transform_of};
use cbn_detection::structures::{ImageSize, Targets, TrainBatch};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

fn shapes(num_train: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = SyntheticConfig { num_train, num_val: 5, image_size: ImageSize::new(48, 64), ..Default::default() };
    generate(dir.path(), &config).unwrap();
    dir
}

fn load(dir: &Path, split: Split) -> Arc<Dataset> {
    let paths = SplitPaths::in_dir(dir, split).unwrap();
    Arc::new(Dataset::load(&paths.annotations, &paths.images).unwrap())
}

fn transform() -> TransformConfig {
    TransformConfig { min_side_px: vec![40, 48, 56], max_side_px: 100, ..Default::default() }
}

fn loader(dataset: &Arc<Dataset>, config: LoaderConfig) -> TrainLoader {
    TrainLoader::new(Arc::clone(dataset), transform(), config).unwrap()
}

fn batches(loader: &TrainLoader, epoch: usize, skip: usize) -> Vec<TrainBatch> {
    loader.epoch(epoch, skip).map(Result::unwrap).collect()
}

#[test]
fn batches_do_not_depend_on_the_number_of_workers() {
    let dir = shapes(13);
    let dataset = load(dir.path(), Split::Train);
    let epoch = |num_workers| {
        batches(&loader(&dataset, LoaderConfig { num_workers, queue_batches: 2, ..Default::default() }), 1, 0)
    };
    let expected = epoch(0);
    assert_eq!(expected.len(), 7);
    assert_eq!(epoch(1), expected);
    assert_eq!(epoch(4), expected);
}

#[test]
fn epochs_and_seeds_differ() {
    let dir = shapes(13);
    let dataset = load(dir.path(), Split::Train);
    let loader_of = |seed| loader(&dataset, LoaderConfig { seed, ..Default::default() });
    assert_ne!(batches(&loader_of(0), 0, 0), batches(&loader_of(0), 1, 0));
    assert_ne!(batches(&loader_of(0), 0, 0), batches(&loader_of(1), 0, 0));
}

#[test]
fn skipping_equals_consuming() {
    let dir = shapes(13);
    let loader = loader(&load(dir.path(), Split::Train), LoaderConfig::default());
    let all = batches(&loader, 2, 0);
    assert_eq!(batches(&loader, 2, 3), all[3..]);
    assert_eq!(batches(&loader, 2, 7), []);
}

#[test]
fn shards_split_every_batch_and_its_transforms() {
    let dir = shapes(13);
    let dataset = load(dir.path(), Split::Train);
    let of_shard = |rank, count| {
        let config = LoaderConfig { batch_size: 4, shard: Shard { rank, count }, ..Default::default() };
        let loader = loader(&dataset, config);
        assert_eq!(loader.batches_per_epoch(), 4);
        batches(&loader, 1, 1)
    };
    let whole = of_shard(0, 1);
    for count in [2, 4] {
        let shards: Vec<Vec<TrainBatch>> = (0..count).map(|rank| of_shard(rank, count)).collect();
        for (step, batch) in whole.iter().enumerate() {
            let parts = || shards.iter().map(|shard| &shard[step]);
            assert!(parts().all(|part| part.places.len() == 4 / count && part.places.is_sorted()));
            // In the order of one process, whoever has which image.
            let boxes = |targets: &Targets| targets.boxes.clone();
            let images = |batch: &TrainBatch| -> Vec<_> {
                let TrainBatch { images, targets, image_ids, places } = batch;
                let image = |i: usize| (places[i], image_ids[i], images.sizes[i], boxes(&targets[i]));
                (0..places.len()).map(image).collect()
            };
            let mut joined: Vec<_> = parts().flat_map(images).collect();
            joined.sort_by_key(|image| image.0);
            assert_eq!(joined, images(batch));
        }
    }
}

#[test]
fn a_batch_that_processes_cannot_share_is_refused() {
    let dir = shapes(2);
    let config = LoaderConfig { batch_size: 4, shard: Shard { rank: 0, count: 3 }, ..Default::default() };
    let refused = TrainLoader::new(load(dir.path(), Split::Train), TransformConfig::default(), config);
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("4 over 3 processes"), "{message}");
}

#[test]
fn boxes_enclose_their_masks_after_every_transform() {
    let dir = shapes(10);
    let loader = loader(&load(dir.path(), Split::Train), LoaderConfig::default());
    for batch in (0..3).flat_map(|epoch| batches(&loader, epoch, 0)) {
        for (targets, size) in batch.targets.iter().zip(&batch.images.sizes) {
            assert!(!targets.is_empty());
            for (bbox, mask) in targets.boxes.iter().zip(targets.masks.as_ref().unwrap()) {
                assert_eq!(mask.image, *size);
                let edges = [mask.left, mask.top, mask.left + mask.width, mask.top + mask.height];
                for (edge, expected) in bbox.to_array().iter().zip(edges) {
                    // The box was taken at the original size and scaled by up to 1.4; the mask was rounded to pixels twice.
                    assert!((edge - expected as f32).abs() <= 2.0, "{bbox:?} does not fit {edges:?}");
                }
            }
        }
    }
}

#[test]
fn testing_visits_every_image_once_in_order_and_unchanged() {
    let dir = shapes(1);
    let config = LoaderConfig { batch_size: 2, num_workers: 3, ..Default::default() };
    let loader = TestLoader::new(load(dir.path(), Split::Val), transform(), config).unwrap();
    let batches: Vec<_> = loader.batches().map(Result::unwrap).collect();
    assert_eq!(batches.len(), loader.num_batches());
    let metas: Vec<_> = batches.iter().flat_map(|batch| &batch.metas).collect();
    assert_eq!(metas.iter().map(|meta| meta.image_id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    // The last of the side lengths: 48 x 64 becomes 56 x 75.
    assert!(batches.iter().flat_map(|batch| &batch.images.sizes).all(|size| *size == ImageSize::new(56, 75)));
    assert_eq!(metas[0].scale, [75.0 / 64.0, 56.0 / 48.0]);
    assert_eq!(batches[0].images.padded, ImageSize::new(64, 96));
}

#[test]
fn synthetic_data_depend_on_the_seed_alone_and_pass_the_check() {
    let config = SyntheticConfig { num_train: 30, num_val: 3, ..Default::default() };
    let write = |config: &SyntheticConfig| {
        let dir = tempfile::tempdir().unwrap();
        generate(dir.path(), config).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let content = (read("train.json"), read("images/train_00007.png"), read("images/val_00001.png"));
        (dir, content)
    };
    let (dir, first) = write(&config);
    assert_eq!(write(&config).1, first);
    assert_ne!(write(&SyntheticConfig { seed: 1, ..config }).1, first);

    let report = check(&SplitPaths::in_dir(dir.path(), Split::Train).unwrap()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.num_images, report.num_trainable_images, report.num_crowds), (30, 30, 0));
    assert!(report.objects_per_class.iter().all(|(_, count)| *count > 0), "{:?}", report.objects_per_class);
    // Both kinds of mask occur.
    let json = String::from_utf8(first.0).unwrap();
    assert!(json.contains("\"counts\"") && json.contains("\"segmentation\":[["));
}

#[test]
fn both_folder_layouts_are_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("annotations")).unwrap();
    std::fs::write(dir.path().join("annotations/instances_val2017.json"), "{}").unwrap();
    let coco = SplitPaths::in_dir(dir.path(), Split::Val).unwrap();
    assert_eq!(coco.images, dir.path().join("val2017"));
    std::fs::write(dir.path().join("val.json"), "{}").unwrap();
    let own = SplitPaths::in_dir(dir.path(), Split::Val).unwrap();
    assert_eq!((own.annotations, own.images), (dir.path().join("val.json"), dir.path().join("images")));
    let paths = DataPaths { val_images: Some("elsewhere".into()), ..DataPaths::from_dir(dir.path()) };
    assert_eq!(paths.split(Split::Val).unwrap().images, Path::new("elsewhere"));
}

/// The grey images of fixtures/released/selection.json, each of the level of its id, and what mmdetection 0.6.2 shows in place of each.
fn grey_images() -> (tempfile::TempDir, serde_json::Value) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/released/selection.json");
    let fixture: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(fixture).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("images")).unwrap();
    std::fs::write(dir.path().join("train.json"), fixture["dataset"].to_string()).unwrap();
    for image in fixture["dataset"]["images"].as_array().unwrap() {
        let [id, width, height] = ["id", "width", "height"].map(|key| image[key].as_u64().unwrap() as u32);
        let path = dir.path().join("images").join(image["file_name"].as_str().unwrap());
        image::GrayImage::from_pixel(width, height, image::Luma([id as u8])).save(path).unwrap();
    }
    (dir, fixture["shown"].clone())
}

/// How often each image is shown in some epochs, after a look at its pixels, and how many objects it has.
fn shown_by(conventions: &str, dir: &Path, num_epochs: usize) -> Vec<BTreeMap<u64, Vec<usize>>> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/faster_rcnn_r50_none.toml");
    let of = format!("conventions={conventions}");
    let settings = [&of, "train.batch_size=1", "data.num_workers=0", "data.transform.min_side_px=[32]"];
    let recipe = Recipe::load(&recipe, &settings.map(str::to_owned)).unwrap();
    let loader = TrainLoader::new(load(dir, Split::Train), transform_of(&recipe), train_loader(&recipe)).unwrap();
    let mut epochs = Vec::new();
    for epoch in 0..num_epochs {
        let mut shown: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for batch in batches(&loader, epoch, 0) {
            let id = batch.image_ids[0];
            assert!((batch.images.pixels[0] - (id as f32 - 123.675) / 58.395).abs() < 1e-5, "not image {id}");
            shown.entry(id).or_default().push(batch.targets[0].len());
        }
        epochs.push(shown);
    }
    epochs
}

#[test]
fn released_recipes_train_on_the_images_that_mmdetection_does() {
    let (dir, shown) = grey_images();
    let expected: BTreeMap<String, Vec<BTreeMap<String, u64>>> = serde_json::from_value(shown).unwrap();
    let may_be: BTreeSet<[u64; 2]> =
        expected.values().flatten().map(|shown| [shown["image"], shown["objects"]]).collect();
    let found = shown_by("released", dir.path(), 16);
    for epoch in &found {
        assert_eq!(epoch.values().map(Vec::len).sum::<usize>(), expected.len());
        let is_shown = epoch.iter().flat_map(|(&id, objects)| objects.iter().map(move |&count| [id, count as u64]));
        assert_eq!(is_shown.collect::<BTreeSet<_>>(), may_be);
        // One image takes the place of 7, which is tall; two share those of four wide ones.
        assert_eq!(epoch[&10].len(), 2);
    }
    assert!(found.iter().any(|epoch| epoch[&1].len() > epoch[&8].len()));
    assert!(found.iter().any(|epoch| epoch[&1].len() < epoch[&8].len()));
}

#[test]
fn other_recipes_train_on_every_image_with_an_object() {
    let (dir, _) = grey_images();
    let once = |id: u64, objects: usize| (id, vec![objects]);
    let expected = BTreeMap::from([once(1, 2), once(2, 1), once(3, 1), once(5, 1), once(8, 1), once(10, 1)]);
    assert_eq!(shown_by("house", dir.path(), 1), [expected]);
}

/// Every image and annotation of a real data set is read, transformed and turned into targets.
fn assert_is_trainable(name: &str, num_images: usize, num_left_out: usize) {
    let Some(dir) = common::data_set(name) else { return };
    let report = check(&SplitPaths::in_dir(&dir, Split::Train).unwrap()).unwrap();
    assert!(report.findings.iter().all(|finding| finding.severity() < Severity::Error), "{:?}", report.findings);
    let loader = loader(&load(&dir, Split::Train), LoaderConfig { batch_size: 4, ..Default::default() });
    assert_eq!((loader.num_images(), loader.num_images_left_out()), (num_images, num_left_out));
    let mut seen = HashSet::new();
    for batch in loader.epoch(0, 0) {
        let batch = batch.unwrap();
        seen.extend(batch.image_ids);
        assert!(batch.targets.iter().all(|targets| targets.masks.as_ref().unwrap().len() == targets.len()));
    }
    assert_eq!(seen.len(), num_images);
}

#[test]
fn an_epoch_of_coco_mini_can_be_read() {
    assert_is_trainable("coco_mini", 340, 3);
}

#[test]
fn an_epoch_of_the_nuclei_can_be_read() {
    assert_is_trainable("nuclei_dsb2018", 531, 0);
}
