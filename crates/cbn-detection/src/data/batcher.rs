use std::path::Path;

use image::RgbImage;
use rand::{Rng, RngExt};

use super::image_file::{read_rgb_of_size, size_of};
use super::{
    BadImages, DataError, Dataset, ImageError, ImageRecord, Pixels, ResizedImage, SelectionConventions, Transform,
    TransformConfig, TransformConventions, read_rgb,
};
use crate::structures::{ImageSize, PaddedImages, Targets, TrainBatch};

/// Where a test image comes from and how to get back to its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageMeta {
    /// COCO id.
    pub image_id: u64,
    /// Path below the image folder.
    pub file_name: String,
    /// Size before the resize.
    pub original: ImageSize,
    /// Network pixels per original pixel, horizontally and vertically.
    pub scale: [f32; 2],
    /// How boxes and masks get back.
    pub conventions: TransformConventions,
}

/// Images to detect objects in.
#[derive(Debug, Clone, PartialEq)]
pub struct TestBatch {
    /// The images, padded to one size.
    pub images: PaddedImages,
    /// One entry per image.
    pub metas: Vec<ImageMeta>,
}

impl TestBatch {
    /// A batch of one image that belongs to no data set; its id is 0.
    ///
    /// # Errors
    ///
    /// If the file is missing, truncated or not a picture.
    pub fn from_file(path: &Path, config: &TransformConfig) -> Result<Self, ImageError> {
        Ok(Self::from_image(&read_rgb(path)?, path.display().to_string(), config))
    }

    /// A batch of one decoded image; its id is 0.
    pub fn from_image(image: &RgbImage, file_name: String, config: &TransformConfig) -> Self {
        Self::from_images(&[(image, file_name)], config)
    }

    /// A batch of decoded images and their names; their ids are 0, 1, ...
    pub fn from_images(pictures: &[(&RgbImage, String)], config: &TransformConfig) -> Self {
        let (mut images, mut metas) = (Vec::new(), Vec::new());
        for (image_id, (image, file_name)) in (0..).zip(pictures) {
            let transform = config.for_test(size_of(image));
            images.push(transform.apply_to_image(image));
            metas.push(ImageMeta {
                image_id,
                file_name: file_name.clone(),
                original: transform.original,
                scale: transform.scale(),
                conventions: config.conventions,
            });
        }
        Self { images: pad(&images, config), metas }
    }

    /// Reads and transforms the images at these places of the data set.
    pub(super) fn load(dataset: &Dataset, indices: &[usize], config: &TransformConfig) -> Result<Self, DataError> {
        let (mut images, mut metas) = (Vec::new(), Vec::new());
        for record in indices.iter().map(|&index| &dataset.images[index]) {
            let transform = config.for_test(record.size);
            images.push(transform.apply_to_image(&read(dataset, record)?));
            metas.push(ImageMeta {
                image_id: record.id,
                file_name: record.file_name.clone(),
                original: record.size,
                scale: transform.scale(),
                conventions: config.conventions,
            });
        }
        Ok(Self { images: pad(&images, config), metas })
    }
}

/// Where training images come from.
pub(super) struct TrainSource<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) transform: &'a TransformConfig,
    pub(super) with_masks: bool,
    pub(super) selection: SelectionConventions,
    pub(super) bad_images: &'a BadImages,
    /// Images of similar shape; a bad one's place is taken by the next of its group. Each group has an image that is not replaced.
    pub(super) groups: &'a [Vec<usize>],
}

impl TrainSource<'_> {
    /// Reads and transforms images with a random transform each: their places in the step's batch and in the data set.
    pub(super) fn load<R: Rng + Clone>(
        &self,
        own: impl Iterator<Item = (usize, usize, R)>,
    ) -> Result<TrainBatch, DataError> {
        let (mut images, mut targets, mut image_ids, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, index, mut rng) in own {
            let (record, image) = self.read(self.fruitful(index, &mut rng))?;
            let transform = self.transform.draw(record.size, &mut rng);
            images.push(transform.apply_to_image(&image));
            targets.push(targets_of(record, &transform, self.with_masks, self.selection)?);
            image_ids.push(record.id);
            places.push(place);
        }
        Ok(TrainBatch { images: pad(&images, self.transform), targets, image_ids, places })
    }

    /// The image, or in place of one that shows no object a random one of its group.
    fn fruitful<R: Rng>(&self, index: usize, rng: &mut R) -> usize {
        let is_barren =
            |index: usize| self.selection.replaces(&self.dataset.images[index], self.transform.conventions.boxes);
        if !is_barren(index) {
            return index;
        }
        let group = self.group_of(index);
        std::iter::repeat_with(|| group[rng.random_range(0..group.len())])
            .find(|&other| !is_barren(other))
            .unwrap_or(index)
    }

    fn group_of(&self, index: usize) -> &[usize] {
        self.groups.iter().find(|group| group.contains(&index)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The image, or the next of its group that can be used: the same one whenever this place of the epoch comes up.
    fn read(&self, index: usize) -> Result<(&ImageRecord, RgbImage), DataError> {
        let first = &self.dataset.images[index];
        let error = match read(self.dataset, first) {
            Ok(image) => return Ok((first, image)),
            Err(error) => error,
        };
        self.bear(first, &error)?;
        let group = self.group_of(index);
        let place = group.iter().position(|&other| other == index).unwrap_or_default();
        for &other in group[place + 1..].iter().chain(&group[..place]) {
            let record = &self.dataset.images[other];
            match read(self.dataset, record) {
                Ok(image) => return Ok((record, image)),
                Err(error) => self.bear(record, &error)?,
            }
        }
        Err(error)
    }

    fn bear(&self, record: &ImageRecord, error: &DataError) -> Result<(), DataError> {
        let DataError::Image { image, source } = error else { return Ok(()) };
        if self.bad_images.bears(&self.dataset.image_path(record), source) {
            return Ok(());
        }
        let (image, source) = (*image, source.clone());
        Err(match self.bad_images.limit() {
            0 => DataError::Image { image, source },
            limit => DataError::TooManyBadImages { limit, image, source },
        })
    }
}

fn read(dataset: &Dataset, record: &ImageRecord) -> Result<RgbImage, DataError> {
    read_rgb_of_size(&dataset.image_path(record), record.size)
        .map_err(|source| DataError::Image { image: record.id, source })
}

fn targets_of(
    record: &ImageRecord,
    transform: &Transform,
    with_masks: bool,
    selection: SelectionConventions,
) -> Result<Targets, DataError> {
    let mut targets = Targets { masks: with_masks.then(Vec::new), ..Targets::default() };
    for [object, masked] in selection.targets(record, transform.box_convention()) {
        let bbox = transform.apply_to_box(&object.bbox);
        // A sliver can vanish when its edges round to the same number.
        if bbox.is_empty() {
            continue;
        }
        if let Some(masks) = &mut targets.masks {
            let refused = |reason: String| DataError::Segmentation { image: record.id, annotation: masked.id, reason };
            // The loader refuses objects without a mask, but not crowds.
            let segmentation = masked.segmentation.as_ref().ok_or_else(|| refused("it has none".to_owned()))?;
            masks.push(transform.apply_to_segmentation(segmentation).map_err(|error| refused(error.to_string()))?);
        }
        targets.boxes.push(bbox);
        targets.labels.push(object.label);
    }
    Ok(targets)
}

/// Normalises the images into one zero-padded buffer whose sides are multiples of the config's divisor.
fn pad(images: &[ResizedImage], config: &TransformConfig) -> PaddedImages {
    let sizes: Vec<ImageSize> = images.iter().map(|image| image.size).collect();
    let longest =
        |side: fn(&ImageSize) -> usize| sizes.iter().map(side).max().unwrap_or(0).next_multiple_of(config.size_divisor);
    let padded = ImageSize::new(longest(|size| size.height), longest(|size| size.width));
    let normalised = normalisation_table(config);
    let mut pixels = vec![0.0; images.len() * padded.num_pixels() * 3];
    for (image, canvas) in images.iter().zip(pixels.chunks_exact_mut(padded.num_pixels() * 3)) {
        let widths = [image.size.width, padded.width];
        match &image.pixels {
            Pixels::Bytes(bytes) => {
                copy_rows(bytes, canvas, widths, |channel, level| normalised[channel][usize::from(level)]);
            }
            Pixels::Floats(floats) => copy_rows(floats, canvas, widths, |channel, level| {
                (level - config.pixel_mean[channel]) / config.pixel_std[channel]
            }),
        }
    }
    PaddedImages { pixels, padded, sizes, scales: images.iter().map(|image| image.scale).collect() }
}

/// Writes rows of RGB to the left of longer ones.
fn copy_rows<T: Copy>(
    image: &[T],
    canvas: &mut [f32],
    [width, padded_width]: [usize; 2],
    normalise: impl Fn(usize, T) -> f32,
) {
    for (source, target) in image.chunks_exact(width * 3).zip(canvas.chunks_exact_mut(padded_width * 3)) {
        for (rgb, out) in source.chunks_exact(3).zip(target.chunks_exact_mut(3)) {
            for channel in 0..3 {
                out[channel] = normalise(channel, rgb[channel]);
            }
        }
    }
}

/// The normalised value of each of the 256 levels of each channel.
fn normalisation_table(config: &TransformConfig) -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| {
        let (mean, std) = (config.pixel_mean[channel], config.pixel_std[channel]);
        std::array::from_fn(|level| (level as f32 - mean) / std)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcoco::Segmentation;

    use crate::data::{Annotation, CrowdMasks, TransformConventions};
    use crate::structures::{BBox, BoxConvention};

    #[test]
    fn the_released_code_learns_nothing_from_slivers() {
        let object = |id: u64, xywh: [f64; 4]| Annotation {
            id,
            label: id as usize,
            bbox: BBox::from_xywh(xywh),
            is_crowd: false,
            is_ignored: false,
            segmentation: None,
        };
        let record = ImageRecord {
            id: 1,
            file_name: String::new(),
            size: ImageSize::new(100, 100),
            is_annotated: true,
            annotations: vec![object(0, [5.0, 5.0, 20.0, 0.75]), object(1, [5.0, 5.0, 20.0, 1.0])],
        };
        let labels = |boxes: BoxConvention| {
            let mut config = TransformConfig::default();
            config.conventions.boxes = boxes;
            targets_of(&record, &config.for_test(record.size), false, SelectionConventions::default()).unwrap().labels
        };
        assert_eq!(labels(BoxConvention::Continuous), [0, 1]);
        assert_eq!(labels(BoxConvention::LegacyInclusive), [1]);
    }

    /// mmdetection 0.6.2 `CocoDataset._parse_ann_info` lists the masks of all four but the sliver, and the boxes of the second and the last.
    #[test]
    fn the_released_code_gives_an_object_behind_a_crowd_the_mask_before_its_own() {
        let annotation = |id: u64, is_crowd: bool, [x, width]: [f64; 2]| Annotation {
            id,
            label: id as usize,
            bbox: BBox::from_xywh([x, 0.0, width, 8.0]),
            is_crowd,
            is_ignored: false,
            segmentation: Some(Segmentation::Polygon(vec![vec![x, 0.0, x + width, 0.0, x + width, 8.0, x, 8.0]])),
        };
        let annotations = vec![
            annotation(0, true, [0.0, 3.0]),
            annotation(1, false, [4.0, 5.0]),
            annotation(2, false, [10.0, 0.5]),
            annotation(3, false, [12.0, 7.0]),
        ];
        let size = ImageSize::new(8, 32);
        let record = ImageRecord { id: 1, file_name: String::new(), size, is_annotated: true, annotations };
        let conventions =
            TransformConventions { boxes: BoxConvention::LegacyInclusive, ..TransformConventions::default() };
        let transform =
            TransformConfig { conventions, min_side_px: vec![8], ..TransformConfig::default() }.for_test(size);
        let columns = |crowd_masks: CrowdMasks| {
            let selection = SelectionConventions { crowd_masks, ..SelectionConventions::default() };
            let targets = targets_of(&record, &transform, true, selection).unwrap();
            assert_eq!(targets.labels, [1, 3]);
            targets.masks.unwrap().iter().map(|mask| mask.area_px() / 8).collect::<Vec<_>>()
        };
        assert_eq!(columns(CrowdMasks::LeftOut), [5, 7]);
        assert_eq!(columns(CrowdMasks::Listed), [3, 5]);
    }

    #[test]
    fn padding_is_zero_and_pixels_are_normalised() {
        let config = TransformConfig {
            pixel_mean: [10.0, 20.0, 30.0],
            pixel_std: [1.0, 2.0, 4.0],
            size_divisor: 4,
            ..TransformConfig::default()
        };
        let constant = |size: ImageSize, rgb: [u8; 3]| ResizedImage {
            size,
            scale: [1.0; 2],
            pixels: Pixels::Bytes(rgb.repeat(size.num_pixels())),
        };
        let images = [constant(ImageSize::new(2, 3), [11, 24, 42]), constant(ImageSize::new(5, 2), [0; 3])];
        let batch = pad(&images, &config);
        assert_eq!(batch.padded, ImageSize::new(8, 4));
        assert_eq!(batch.sizes, [ImageSize::new(2, 3), ImageSize::new(5, 2)]);
        let pixel = |image: usize, y: usize, x: usize| &batch.pixels[((image * 8 + y) * 4 + x) * 3..][..3];
        assert_eq!(pixel(0, 1, 2), [1.0, 2.0, 3.0]);
        assert_eq!(pixel(0, 1, 3), [0.0; 3]);
        assert_eq!(pixel(0, 2, 0), [0.0; 3]);
        assert_eq!(pixel(1, 4, 1), [-10.0, -10.0, -7.5]);
    }
}
