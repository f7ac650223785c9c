use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batcher::TrainSource;
use super::deal::{Load, deal};
use super::prefetch::Prefetch;
use super::sampler::{Purpose, aspect_groups, epoch_batches, num_steps, stream};
use super::{BadImages, DataError, Dataset, SelectionConventions, Shard, TestBatch, TransformConfig};
use crate::structures::{ImageSize, TrainBatch};

/// How batches are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Images of a training step, over all shards; images of a test batch, which one shard has whole.
    pub batch_size: usize,
    /// Threads that read and transform images; 0 does it on the caller's thread.
    pub num_workers: usize,
    /// Batches made ahead of time.
    pub queue_batches: usize,
    /// Determines order and transforms.
    pub seed: u64,
    /// Batches wide images with wide ones and tall images with tall ones.
    pub aspect_grouping: bool,
    /// Adds masks to the targets.
    pub with_masks: bool,
    /// The part of every epoch that this process handles.
    pub shard: Shard,
    /// What is trained on.
    pub selection: SelectionConventions,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 2,
            num_workers: 2,
            queue_batches: 4,
            seed: 0,
            aspect_grouping: true,
            with_masks: true,
            shard: Shard::default(),
            selection: SelectionConventions::default(),
        }
    }
}

impl LoaderConfig {
    fn validate(&self) -> Result<(), DataError> {
        let fault = |field, value: String, expected| Err(DataError::Config { field, value, expected });
        if self.batch_size == 0 {
            return fault("batch_size", "0".into(), "must be positive");
        }
        if self.shard.rank >= self.shard.count {
            return fault("shard.rank", self.shard.rank.to_string(), "must be below shard.count");
        }
        Ok(())
    }
}

impl LoaderConfig {
    fn validate_shares(&self) -> Result<(), DataError> {
        if self.batch_size.is_multiple_of(self.shard.count) {
            return Ok(());
        }
        let value = format!("{} over {} processes", self.batch_size, self.shard.count);
        Err(DataError::Config { field: "batch_size", value, expected: "must be a multiple of the number of processes" })
    }
}

/// Training batches: shuffled, randomly transformed, and a function of seed and epoch alone.
///
/// Images without an object are left out, or what [`SelectionConventions`] say; see [`TrainLoader::num_images_left_out`].
#[derive(Debug, Clone)]
pub struct TrainLoader {
    dataset: Arc<Dataset>,
    transform: TransformConfig,
    config: LoaderConfig,
    groups: Vec<Vec<usize>>,
    bad_images: Arc<BadImages>,
}

impl TrainLoader {
    /// A loader over the images that show objects.
    ///
    /// # Errors
    ///
    /// If a setting makes no sense, no image shows an object, or masks are asked for and an object has none.
    pub fn new(dataset: Arc<Dataset>, transform: TransformConfig, config: LoaderConfig) -> Result<Self, DataError> {
        transform.validate()?;
        config.validate()?;
        config.validate_shares()?;
        if config.with_masks {
            require_masks(&dataset)?;
        }
        let groups = groups_of(&dataset, &transform, &config);
        if groups.is_empty() {
            let path = dataset.annotations_path().to_owned();
            return Err(DataError::NothingToTrainOn { path, num_images: dataset.images.len() });
        }
        Ok(Self { dataset, transform, config, groups, bad_images: Arc::default() })
    }

    /// Bears so many images that cannot be read: another image of the epoch takes the place of each. Without this, none is borne.
    #[must_use]
    pub fn with_bad_image_limit(mut self, limit: usize) -> Self {
        self.bad_images = Arc::new(BadImages::new(limit));
        self
    }

    /// The images that could not be read so far.
    pub fn bad_images(&self) -> &BadImages {
        &self.bad_images
    }

    /// Paths below the image folder of the images with these ids.
    pub fn file_names(&self, image_ids: &[u64]) -> Vec<String> {
        let name = |id| self.dataset.images.iter().find(|image| image.id == id).map(|image| image.file_name.clone());
        image_ids.iter().filter_map(|&id| name(id)).collect()
    }

    /// Batches of one epoch, the same number for every shard.
    pub fn batches_per_epoch(&self) -> usize {
        num_steps(&self.groups, self.config.batch_size)
    }

    /// Images that are trained on, over all shards.
    pub fn num_images(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Images that are not trained on.
    pub fn num_images_left_out(&self) -> usize {
        self.dataset.images.len() - self.num_images()
    }

    /// The batches of an epoch, but for the first `skip_batches`: a resumed run sees what it would have seen.
    ///
    /// Of each batch, a shard has its equal part: the images of a step do not depend on how many processes share them. They are dealt so
    /// that the shards have about as much to do.
    /// An image that cannot be read, and not borne, is an error in place of its batch.
    pub fn epoch(
        &self,
        epoch: usize,
        skip_batches: usize,
    ) -> impl ExactSizeIterator<Item = Result<TrainBatch, DataError>> + use<> {
        let loader = self.clone();
        let LoaderConfig { batch_size, num_workers, queue_batches, seed, shard, .. } = self.config;
        let mut order = stream(seed, epoch, Purpose::Order);
        let batches = epoch_batches(&self.groups, batch_size, &mut order);
        let remaining = batches.len().saturating_sub(skip_batches);
        Prefetch::new(remaining, num_workers, queue_batches, move |step| {
            let batch = skip_batches + step;
            let images = &batches[batch];
            let loads: Vec<Load> = images.iter().map(|&index| loader.load(index)).collect();
            let own = deal(&loads, shard.count).swap_remove(shard.rank);
            let places = own.into_iter().map(|place| {
                let of_epoch = (batch * batch_size + place) as u64;
                (place, images[place], stream(seed, epoch, Purpose::Transform { place: of_epoch }))
            });
            let source = TrainSource {
                dataset: &loader.dataset,
                transform: &loader.transform,
                with_masks: loader.config.with_masks,
                selection: loader.config.selection,
                bad_images: &loader.bad_images,
                groups: &loader.groups,
            };
            source.load(places)
        })
    }

    fn load(&self, index: usize) -> Load {
        let image = &self.dataset.images[index];
        let resized = self.transform.for_test(image.size).resized;
        let [height, width] =
            [resized.height, resized.width].map(|side| side.next_multiple_of(self.transform.size_divisor));
        Load { size: ImageSize::new(height, width), num_objects: image.objects().count() }
    }
}

/// The images of an epoch, those of similar shape together. A group none of whose images shows an object is left out.
fn groups_of(dataset: &Dataset, transform: &TransformConfig, config: &LoaderConfig) -> Vec<Vec<usize>> {
    let selection = config.selection;
    let taken: Vec<usize> =
        (0..dataset.images.len()).filter(|&index| selection.takes(&dataset.images[index])).collect();
    let mut groups = if config.aspect_grouping {
        aspect_groups(taken.into_iter().map(|index| (index, dataset.images[index].size)))
    } else {
        vec![taken]
    };
    let boxes = transform.conventions.boxes;
    groups.retain(|group| group.iter().any(|&index| !selection.replaces(&dataset.images[index], boxes)));
    groups
}

fn require_masks(dataset: &Dataset) -> Result<(), DataError> {
    for image in &dataset.images {
        if let Some(annotation) = image.objects().find(|annotation| annotation.segmentation.is_none()) {
            let path = dataset.annotations_path().to_owned();
            return Err(DataError::NoMask { path, image: image.id, annotation: annotation.id });
        }
    }
    Ok(())
}

/// Test batches: every image once, in file order, without randomness.
#[derive(Debug, Clone)]
pub struct TestLoader {
    dataset: Arc<Dataset>,
    transform: TransformConfig,
    config: LoaderConfig,
}

impl TestLoader {
    /// A loader over all images, with and without objects. Of the config, seed, grouping and masks do not matter.
    ///
    /// # Errors
    ///
    /// If a setting makes no sense.
    pub fn new(dataset: Arc<Dataset>, transform: TransformConfig, config: LoaderConfig) -> Result<Self, DataError> {
        transform.validate()?;
        config.validate()?;
        Ok(Self { dataset, transform, config })
    }

    /// The data set.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Images of this process.
    pub fn num_images(&self) -> usize {
        self.own_batches().map(|batch| batch.len()).sum()
    }

    /// Batches of this process.
    pub fn num_batches(&self) -> usize {
        self.own_batches().count()
    }

    /// The batches; the last one may be smaller.
    ///
    /// An image that cannot be read is an error in place of its batch.
    pub fn batches(&self) -> impl ExactSizeIterator<Item = Result<TestBatch, DataError>> + use<> {
        let loader = self.clone();
        let own: Vec<Range<usize>> = self.own_batches().collect();
        let LoaderConfig { num_workers, queue_batches, .. } = self.config;
        Prefetch::new(own.len(), num_workers, queue_batches, move |step| {
            let batch: Vec<usize> = own[step].clone().collect();
            TestBatch::load(&loader.dataset, &batch, &loader.transform)
        })
    }

    /// Every `count`-th batch, from the shard's rank on: batches do not depend on how many processes share them.
    fn own_batches(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let LoaderConfig { batch_size, shard, .. } = self.config;
        let num_images = self.dataset.images.len();
        let starts = (0..num_images).step_by(batch_size).skip(shard.rank).step_by(shard.count);
        starts.map(move |start| start..num_images.min(start + batch_size))
    }
}
