//! What is said about bad data: one test per case, on the message.

#![allow(clippy::unwrap_used, reason = "a broken fixture fails the test")]

mod common;

use cbn_detection::data::{
    CheckReport, DataError, DataPaths, Dataset, LoaderConfig, Severity, Split, SplitPaths, TrainLoader,
    TransformConfig, check,
};
use image::{GrayImage, Rgb, RgbImage};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::told;

/// A folder with one good image, `a.jpg` of 40 x 30 pixels, and annotations to be spoilt.
struct Folder {
    dir: tempfile::TempDir,
    json: Value,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("images")).unwrap();
        let gradient = RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, (x * y % 256) as u8]));
        gradient.save(dir.path().join("images/a.jpg")).unwrap();
        let json = json!({
            "images": [{"id": 397_133, "file_name": "a.jpg", "width": 40, "height": 30}],
            "annotations": [{
                "id": 81, "image_id": 397_133, "category_id": 3, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0,
                "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]],
            }],
            "categories": [{"id": 3, "name": "cat"}],
        });
        Self { dir, json }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("images/a.jpg")
    }

    fn annotations(&self) -> PathBuf {
        self.dir.path().join("train.json")
    }

    /// A second annotation like the first, but for its id and what `change` does.
    fn add_annotation(&mut self, change: Value) {
        let mut annotation = self.json["annotations"][0].clone();
        annotation["id"] = json!(82);
        for (key, value) in change.as_object().unwrap() {
            annotation[key] = value.clone();
        }
        self.json["annotations"].as_array_mut().unwrap().push(annotation);
    }

    fn load(&self) -> Result<Dataset, DataError> {
        std::fs::write(self.annotations(), self.json.to_string()).unwrap();
        Dataset::load(&self.annotations(), &self.dir.path().join("images"))
    }

    fn check(&self) -> CheckReport {
        std::fs::write(self.annotations(), self.json.to_string()).unwrap();
        check(&SplitPaths::in_dir(self.dir.path(), Split::Train).unwrap()).unwrap()
    }

    /// The error of the first training batch, or of making the loader.
    fn train_error(&self) -> String {
        match TrainLoader::new(Arc::new(self.load().unwrap()), TransformConfig::default(), LoaderConfig::default()) {
            Ok(loader) => told(&loader.epoch(0, 0).next().unwrap().unwrap_err()),
            Err(error) => told(&error),
        }
    }

    fn load_error(&self) -> String {
        told(&self.load().unwrap_err())
    }

    /// The message about the one thing that the check finds.
    fn only_finding(&self) -> (Severity, String) {
        let findings = self.check().findings;
        assert_eq!(findings.len(), 1, "{findings:?}");
        (findings[0].severity(), findings[0].to_string())
    }
}

/// `text` with the folder's path written as DIR.
fn relative(text: &str, folder: &Folder) -> String {
    text.replace(&folder.dir.path().display().to_string(), "DIR")
}

#[test]
fn a_good_folder_has_no_findings() {
    assert_eq!(Folder::new().check().findings, []);
}

#[test]
fn a_missing_annotation_file_is_named() {
    let error = told(&Dataset::load(Path::new("nowhere/train.json"), Path::new("nowhere")).unwrap_err());
    assert_eq!(error, "cannot read nowhere/train.json: No such file or directory (os error 2)");
}

#[test]
fn a_folder_without_a_known_layout_says_what_was_looked_for() {
    let error = SplitPaths::in_dir(Path::new("nowhere"), Split::Train).unwrap_err().to_string();
    assert_eq!(
        error,
        "nowhere has no train annotations: looked for nowhere/train.json and \
         nowhere/annotations/instances_train2017.json; give the paths one by one if they lie elsewhere"
    );
    let error = DataPaths::default().split(Split::Val).unwrap_err().to_string();
    assert_eq!(error, "no val data given: name a data folder, or both the val annotations and the val images");
}

#[test]
fn json_that_is_not_coco_is_named() {
    let mut folder = Folder::new();
    folder.json = json!({"shapes": [], "imagePath": "a.jpg"});
    assert_eq!(
        relative(&folder.load_error(), &folder),
        "DIR/train.json is not COCO JSON: it has neither images nor categories; \
         it needs the lists \"images\", \"annotations\" and \"categories\""
    );
    folder.json = json!([1, 2, 3]);
    assert!(relative(&folder.load_error(), &folder).starts_with("DIR/train.json is not COCO JSON: "));
    std::fs::write(folder.annotations(), "{\"images\": [").unwrap();
    let error = told(&Dataset::load(&folder.annotations(), folder.dir.path()).unwrap_err());
    assert!(relative(&error, &folder).starts_with("DIR/train.json is not COCO JSON: EOF while parsing"), "{error}");
}

#[test]
fn an_empty_data_set_is_named() {
    let mut folder = Folder::new();
    folder.json["images"] = json!([]);
    folder.json["annotations"] = json!([]);
    assert_eq!(relative(&folder.load_error(), &folder), "DIR/train.json lists no images: the data set is empty");
}

#[test]
fn a_data_set_without_objects_cannot_be_trained_on() {
    let mut folder = Folder::new();
    folder.json["annotations"] = json!([]);
    assert_eq!(
        relative(&folder.train_error(), &folder),
        "none of the 1 images in DIR/train.json has a usable annotation, so there is nothing to train on; \
         \"cbn data check\" lists what is wrong with them"
    );
}

#[test]
fn an_image_without_annotations_is_left_out_of_training_only() {
    let mut folder = Folder::new();
    let images = folder.json["images"].as_array_mut().unwrap();
    images.push(json!({"id": 2, "file_name": "a.jpg", "width": 40, "height": 30}));
    let dataset = Arc::new(folder.load().unwrap());
    let loader = TrainLoader::new(Arc::clone(&dataset), TransformConfig::default(), LoaderConfig::default()).unwrap();
    assert_eq!((dataset.images.len(), loader.num_images(), loader.num_images_left_out()), (2, 1, 1));
    let message = "image 2 has no usable annotation; it is evaluated, but not trained on";
    assert_eq!(folder.only_finding(), (Severity::Note, message.to_owned()));
}

#[test]
fn a_missing_image_is_named() {
    let folder = Folder::new();
    std::fs::remove_file(folder.image()).unwrap();
    let expected = "image 397133: cannot read DIR/images/a.jpg: No such file or directory (os error 2); \
                    check the image folder";
    assert_eq!(relative(&folder.train_error(), &folder), expected);
    let (severity, message) = folder.only_finding();
    assert_eq!((severity, relative(&message, &folder).as_str()), (Severity::Error, expected));
}

#[test]
fn a_truncated_jpeg_is_named() {
    let folder = Folder::new();
    let bytes = std::fs::read(folder.image()).unwrap();
    std::fs::write(folder.image(), &bytes[..bytes.len() * 2 / 3]).unwrap();
    assert_eq!(
        relative(&folder.train_error(), &folder),
        "image 397133: DIR/images/a.jpg is truncated: the JPEG data has no end marker; fetch the file again"
    );
}

#[test]
fn a_truncated_png_is_named() {
    let mut folder = Folder::new();
    folder.json["images"][0]["file_name"] = json!("a.png");
    let path = folder.dir.path().join("images/a.png");
    RgbImage::new(40, 30).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = relative(&folder.train_error(), &folder);
    assert!(error.starts_with("image 397133: cannot decode DIR/images/a.png: "), "{error}");
}

#[test]
fn a_file_that_is_no_picture_is_named() {
    let folder = Folder::new();
    std::fs::write(folder.image(), "<html>not found</html>").unwrap();
    let error = relative(&folder.train_error(), &folder);
    assert!(error.starts_with("image 397133: cannot decode DIR/images/a.jpg: "), "{error}");
    assert!(error.ends_with("JPEG and PNG files can be read"), "{error}");
}

#[test]
fn an_image_of_another_size_than_the_json_says_is_named() {
    let mut folder = Folder::new();
    folder.json["images"][0]["width"] = json!(41);
    assert_eq!(
        relative(&folder.train_error(), &folder),
        "image 397133: DIR/images/a.jpg is 40x30, but the JSON says 41x30; boxes and masks would not fit"
    );
}

#[test]
fn an_image_without_a_size_is_named() {
    let mut folder = Folder::new();
    folder.json["images"][0]["height"] = json!(0);
    folder.json["annotations"] = json!([]);
    assert_eq!(
        relative(&folder.load_error(), &folder),
        "DIR/train.json: image 397133 has size 40x0 in the JSON; write its \"width\" and \"height\""
    );
}

#[test]
fn grey_pictures_are_read_as_rgb() {
    let mut folder = Folder::new();
    folder.json["images"][0]["file_name"] = json!("grey.png");
    GrayImage::from_pixel(40, 30, image::Luma([7])).save(folder.dir.path().join("images/grey.png")).unwrap();
    assert_eq!(folder.check().findings, []);
    let path = folder.dir.path().join("images/grey.png");
    assert_eq!(cbn_detection::data::read_rgb(&path).unwrap().get_pixel(3, 4), &Rgb([7, 7, 7]));
}

#[test]
fn an_unknown_category_is_named() {
    let mut folder = Folder::new();
    folder.add_annotation(json!({"category_id": 91}));
    assert_eq!(
        relative(&folder.load_error(), &folder),
        "DIR/train.json: image 397133: annotation 82 has category id 91, which is not in \"categories\""
    );
}

#[test]
fn an_unknown_image_is_named() {
    let mut folder = Folder::new();
    folder.add_annotation(json!({"image_id": 5}));
    assert_eq!(
        relative(&folder.load_error(), &folder),
        "DIR/train.json: annotation 82 is on image 5, which is not in \"images\""
    );
}

#[test]
fn an_id_used_twice_is_named() {
    let mut folder = Folder::new();
    folder.json["categories"] = json!([{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]);
    let error = relative(&folder.load_error(), &folder);
    assert_eq!(error, "DIR/train.json: category id 3 is used twice; ids must be unique");
}

/// The spoilt annotation is left out, the good one is kept, and the check says why.
fn assert_left_out(change: Value, message: &str) {
    let mut folder = Folder::new();
    folder.add_annotation(change);
    let dataset = folder.load().unwrap();
    assert_eq!(dataset.images[0].annotations.len(), 1);
    assert_eq!(dataset.findings().len(), 1);
    assert_eq!(folder.only_finding(), (Severity::Skipped, message.to_owned()));
}

#[test]
fn a_box_without_width_is_left_out_and_named() {
    assert_left_out(
        json!({"bbox": [5, 5, 0, 10]}),
        "image 397133: annotation 82 has width 0; list such boxes with \"cbn data check\"",
    );
}

#[test]
fn an_annotation_with_zero_area_is_left_out_and_named() {
    assert_left_out(
        json!({"area": 0}),
        "image 397133: annotation 82 has area 0; list such boxes with \"cbn data check\"",
    );
}

#[test]
fn a_box_outside_the_image_is_left_out_and_named() {
    assert_left_out(
        json!({"bbox": [40, 5, 10, 10]}),
        "image 397133: annotation 82 has its box [40.0, 5.0, 10.0, 10.0] (x, y, width, height) outside the 40x30 image; \
         list such boxes with \"cbn data check\"",
    );
}

#[test]
fn an_annotation_without_a_box_is_left_out_and_named() {
    assert_left_out(json!({"bbox": null}), "image 397133: annotation 82 has no \"bbox\"");
}

#[test]
fn a_box_partly_outside_is_clipped_and_named() {
    let mut folder = Folder::new();
    folder.add_annotation(json!({"bbox": [30, 5, 20, 10]}));
    let clipped = folder.load().unwrap().images[0].annotations[1].bbox;
    assert_eq!(clipped.to_array(), [30.0, 5.0, 40.0, 15.0]);
    let message = "image 397133: annotation 82 has its box [30.0, 5.0, 20.0, 10.0] (x, y, width, height) partly outside \
                   the 40x30 image; it is clipped";
    assert_eq!(folder.only_finding(), (Severity::Note, message.to_owned()));
}

#[test]
fn a_mask_for_another_image_size_is_named() {
    let mut folder = Folder::new();
    folder.add_annotation(json!({"segmentation": {"size": [40, 30], "counts": [1200]}}));
    let message = "image 397133: annotation 82 has a segmentation that cannot be used: \
                   the RLE is for a 30x40 image, but the image is 40x30";
    assert_eq!(folder.only_finding(), (Severity::Error, message.to_owned()));
    assert_eq!(
        folder.train_error(),
        "image 397133: annotation 82: the RLE is for a 30x40 image, but the image is 40x30"
    );
}

#[test]
fn an_object_without_a_mask_cannot_train_a_mask_head() {
    let mut folder = Folder::new();
    folder.add_annotation(json!({"segmentation": []}));
    assert_eq!(
        relative(&folder.train_error(), &folder),
        "DIR/train.json: image 397133: annotation 82 has no segmentation, but masks are to be learned; \
         add it, or use a recipe without a mask head"
    );
    assert_eq!(folder.only_finding().0, Severity::Note);
    let boxes_only = LoaderConfig { with_masks: false, ..LoaderConfig::default() };
    assert!(TrainLoader::new(Arc::new(folder.load().unwrap()), TransformConfig::default(), boxes_only).is_ok());
}

#[test]
fn crowds_are_no_training_targets() {
    let mut folder = Folder::new();
    folder.add_annotation(json!({"iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [600, 600]}}));
    let dataset = Arc::new(folder.load().unwrap());
    assert_eq!(dataset.images[0].annotations.len(), 2);
    let loader = TrainLoader::new(dataset, TransformConfig::default(), LoaderConfig::default()).unwrap();
    let batch = loader.epoch(0, 0).next().unwrap().unwrap();
    assert!(batch.targets.iter().all(|targets| targets.len() == 1));
    assert_eq!(folder.check().num_crowds, 1);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let folder = Folder::new();
    let error = |transform: TransformConfig, config: LoaderConfig| {
        TrainLoader::new(Arc::new(folder.load().unwrap()), transform, config).unwrap_err().to_string()
    };
    assert_eq!(
        error(TransformConfig { min_side_px: vec![], ..Default::default() }, LoaderConfig::default()),
        "min_side_px is []: name at least one length, none of them 0"
    );
    assert_eq!(
        error(TransformConfig::default(), LoaderConfig { batch_size: 0, ..Default::default() }),
        "batch_size is 0: must be positive"
    );
}
