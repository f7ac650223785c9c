//! Annotations of other formats: what comes of them, and what is said about broken ones.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

use std::fs;
use std::path::{Path, PathBuf};

use cbn_detection::data::convert::{AnnotationFormat, Conversion};
use cbn_detection::data::{Dataset, SplitPaths, check};
use image::RgbImage;
use serde_json::{Value, json};

use AnnotationFormat::{Coco, Cvat, Voc, Yolo};

fn conversion(from: AnnotationFormat, input: &Path, to: AnnotationFormat, output: &Path) -> Conversion {
    Conversion { from, input: input.to_owned(), to, output: output.to_owned(), images: None, only: None }
}

fn object(name: &str, difficult: u8, [x1, y1, x2, y2]: [u32; 4]) -> String {
    format!(
        "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>\
         <xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
    )
}

/// A folder as VOC's, with three images of 20 x 10 pixels; the second XML does not know its size, the third shows nothing.
fn voc(dir: &Path) -> PathBuf {
    let voc = dir.join("voc");
    for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        fs::create_dir_all(voc.join(folder)).unwrap();
    }
    let size = "<size><width>20</width><height>10</height><depth>3</depth></size>";
    let files = [
        ("a", size, object("dog", 0, [1, 1, 20, 10]) + &object("cat", 1, [3, 4, 5, 4])),
        ("b", "", object("cat", 0, [2, 2, 9, 8])),
        ("c", size, String::new()),
    ];
    for (name, size, objects) in files {
        let xml = format!("<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>");
        fs::write(voc.join(format!("Annotations/{name}.xml")), xml).unwrap();
        RgbImage::new(20, 10).save(voc.join(format!("JPEGImages/{name}.jpg"))).unwrap();
    }
    fs::write(voc.join("ImageSets/Main/train.txt"), "a\nb  1\n").unwrap();
    voc
}

fn annotations(path: &Path) -> Vec<Value> {
    let json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json["annotations"].as_array().unwrap().clone()
}

#[test]
fn voc_becomes_a_data_set_that_trains() {
    let dir = tempfile::tempdir().unwrap();
    let (voc, out) = (voc(dir.path()), dir.path().join("train.json"));
    let report = conversion(Voc, &voc, Coco, &out).run().unwrap();
    assert_eq!((report.images, report.annotations, report.left_out.len()), (3, 3, 0));
    // First and last pixel, counted from one, are edges, counted from zero; "difficult" is left to the evaluation, as a crowd.
    assert_eq!(
        annotations(&out)[1],
        json!({"id": 2, "image_id": 1, "category_id": 1, "bbox": [2.0, 3.0, 3.0, 1.0], "area": 3.0, "iscrowd": 1})
    );
    let dataset = Dataset::load(&out, &voc.join("JPEGImages")).unwrap();
    assert_eq!(dataset.class_names(), ["cat", "dog"]);
    assert_eq!(dataset.trainable_images().len(), 2);
    let report = check(&SplitPaths { annotations: out, images: voc.join("JPEGImages") }).unwrap();
    assert_eq!((report.num_objects, report.num_crowds), (2, 1));
    assert!(report.findings.iter().all(|finding| !finding.to_string().contains("size")), "{:?}", report.findings);
}

#[test]
fn a_list_of_images_chooses_among_them() {
    let dir = tempfile::tempdir().unwrap();
    let (voc, out) = (voc(dir.path()), dir.path().join("train.json"));
    let only = |list: PathBuf| Conversion { only: Some(list), ..conversion(Voc, &voc, Coco, &out) };
    let report = only(voc.join("ImageSets/Main/train.txt")).run().unwrap();
    assert_eq!((report.images, report.annotations), (2, 3));
    let list = dir.path().join("list.txt");
    fs::write(&list, "a\nnowhere\n").unwrap();
    let error = only(list).run().unwrap_err().to_string();
    assert!(error.contains("list.txt: \"nowhere\" has no annotations in"), "{error}");
}

#[test]
fn every_format_gives_the_boxes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (voc, coco) = (voc(dir.path()), dir.path().join("coco.json"));
    conversion(Voc, &voc, Coco, &coco).run().unwrap();
    let of = |path: &Path| -> Vec<Value> { annotations(path).into_iter().map(|found| found["bbox"].clone()).collect() };
    for (format, name, left_out) in
        [(Voc, "again", vec![]), (Cvat, "again.xml", vec![]), (Yolo, "labels", vec![(1, "crowds")])]
    {
        let (there, back) = (dir.path().join(name), dir.path().join(format!("{name}.json")));
        let report = conversion(Coco, &coco, format, &there).run().unwrap();
        assert_eq!(report.left_out, left_out);
        let back_again = conversion(format, &there, Coco, &back);
        Conversion { images: Some(voc.join("JPEGImages")), ..back_again }.run().unwrap();
        let mut expected = of(&coco);
        if format == Yolo {
            expected.remove(1);
        }
        for (found, expected) in of(&back).iter().zip(&expected) {
            for (found, expected) in found.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
                // YOLO's file has six decimals of a side of 20 pixels.
                assert!((found.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-4, "{format:?}");
            }
        }
        assert_eq!(of(&back).len(), expected.len());
        let dataset = Dataset::load(&back, &voc.join("JPEGImages")).unwrap();
        // Names without an extension found their files.
        assert!(dataset.images.iter().all(|image| dataset.image_path(image).is_file()), "{format:?}");
    }
}

#[test]
fn masks_that_a_format_cannot_hold_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let coco = dir.path().join("coco.json");
    let annotation = json!({"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0,
        "segmentation": [[1, 1, 4, 1, 4, 4]]});
    let image = json!({"id": 1, "file_name": "a.png", "width": 8, "height": 8});
    let category = json!({"id": 1, "name": "dog"});
    let file = json!({"images": [image], "annotations": [annotation], "categories": [category]});
    fs::write(&coco, file.to_string()).unwrap();
    let report = conversion(Coco, &coco, Voc, &dir.path().join("voc")).run().unwrap();
    assert_eq!(report.left_out, [(1, "masks: the format has boxes only")]);
    let report = conversion(Coco, &coco, Cvat, &dir.path().join("a.xml")).run().unwrap();
    assert_eq!((report.annotations, report.left_out.len()), (1, 0));
}

#[test]
fn broken_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (voc, out) = (voc(dir.path()), dir.path().join("out.json"));
    let error = |conversion: Conversion| conversion.run().unwrap_err().to_string();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let said = error(conversion(Voc, &empty, Coco, &out));
    assert!(said.ends_with("empty has no VOC annotations: looked for Annotations/*.xml"), "{said}");
    let said = error(conversion(Voc, &dir.path().join("nowhere"), Coco, &out));
    assert!(said.contains("nowhere as VOC: "), "{said}");
    // The size of b is in its picture only.
    fs::remove_file(voc.join("JPEGImages/b.jpg")).unwrap();
    let said = error(conversion(Voc, &voc, Coco, &out));
    assert!(said.starts_with("the size of image \"b.jpg\" is not in the annotations"), "{said}");
    let inverted = format!("<annotation><filename>c.jpg</filename>{}</annotation>", object("dog", 0, [9, 1, 2, 4]));
    fs::write(voc.join("Annotations/c.xml"), inverted).unwrap();
    let said = error(conversion(Voc, &voc, Coco, &out));
    assert!(said.contains("c.xml") && said.contains("inverted <bndbox>"), "{said}");
    assert!(!out.exists());
    let said = error(conversion(Coco, &empty, Voc, &voc));
    assert!(said.ends_with("voc is there and not empty: name a new folder"), "{said}");
}

/// The largest real set of boxes that is at hand: to VOC and back without a difference.
#[test]
fn blood_cells_survive_voc() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/bccd");
    if !data.is_dir() {
        println!("skipped: {} is not there", data.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (voc, back) = (dir.path().join("voc"), dir.path().join("back.json"));
    let (input, images) = (data.join("val.json"), Some(data.join("images")));
    let report = conversion(Coco, &input, Voc, &voc).run().unwrap();
    assert_eq!((report.images, report.annotations), (72, 945));
    Conversion { images, ..conversion(Voc, &voc, Coco, &back) }.run().unwrap();
    let boxes = |path: &Path| {
        let dataset = Dataset::load(path, &data.join("images")).unwrap();
        let mut found = Vec::new();
        for image in &dataset.images {
            let of_image = image.annotations.iter();
            found.extend(of_image.map(|it| (image.file_name.clone(), it.bbox.to_array().map(f32::to_bits), it.label)));
        }
        found.sort();
        found
    };
    assert_eq!(boxes(&back), boxes(&input));
}
