//! The best and the worst images.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cbn_detection::data::{Annotation, ImageRecord, read_rgb};
use cbn_detection::eval::{CocoDetection, ImageScore};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::overlay::{Color, Item, Scale, render};
use crate::page::{Block, Picture, Section};
use crate::run::Results;

const SIDE_PX: u32 = 480;
const JPEG_QUALITY: u8 = 82;
/// Blue green and vermilion of Okabe and Ito: apart for everyone.
const RIGHT: Color = Color([0, 190, 140]);
const WRONG: Color = Color([240, 90, 20]);
/// More labels hide the picture.
const MAX_LABELS: usize = 30;

pub(super) fn section(results: &Results, num_pictures: usize) -> Section {
    let analysis = results.main();
    let mut ranked: Vec<&ImageScore> = analysis.images.iter().filter(|score| num_objects(score) > 0).collect();
    // Among equals, the image with more to find says more.
    ranked.sort_by(|a, b| b.f1().total_cmp(&a.f1()).then(num_objects(b).cmp(&num_objects(a))));
    let num_pictures = num_pictures.min(ranked.len() / 2);
    let best = ranked[..num_pictures].iter().map(|score| picture(results, score, "best"));
    let worst = ranked.iter().rev().take(num_pictures).map(|score| picture(results, score, "worst"));
    let pictures: Vec<Picture> = worst.chain(best).collect();
    let intro = format!(
        "By F1 at the score of {:.2}. Left what is there, right what was found; green is right, orange was missed (left) or is wrong (right).",
        analysis.operating_point.score
    );
    let blocks = if pictures.is_empty() { Vec::new() } else { vec![Block::Pictures(pictures)] };
    Section { id: "pictures", title: "Worst and best images", intro, blocks }
}

fn num_objects(score: &ImageScore) -> usize {
    score.num_correct + score.num_missed
}

fn picture(results: &Results, score: &ImageScore, rank: &str) -> Picture {
    let counts = format!(
        "F1 {:.2}: {} right, {} wrong, {} missed",
        score.f1(),
        score.num_correct,
        score.num_wrong,
        score.num_missed
    );
    let record = results.dataset.images.iter().find(|record| record.id == score.image_id);
    let Some(record) = record else {
        return Picture { title: format!("image {}", score.image_id), note: counts, panes: None };
    };
    let title = format!("{rank}: {}", record.file_name);
    match read_rgb(&results.dataset.image_path(record)) {
        Ok(pixels) => Picture { title, note: counts, panes: Some(panes(results, record, &pixels)) },
        Err(error) => Picture { title, note: format!("{counts}. {error}"), panes: None },
    }
}

fn panes(results: &Results, record: &ImageRecord, pixels: &RgbImage) -> [String; 2] {
    let analysis = results.main();
    let has_classes = results.dataset.categories.len() > 1;
    let objects: Vec<&Annotation> = record.objects().collect();
    let truth: Vec<Item> = objects
        .iter()
        .map(|object| {
            let is_found = analysis.found_annotations.contains(&object.id);
            let is_labelled = has_classes && objects.len() <= MAX_LABELS;
            Item {
                bbox: Some(object.bbox.to_xywh()),
                mask: as_detection(record, object).mask(record.size).ok().flatten(),
                label: if is_labelled { results.dataset.categories[object.label].name.clone() } else { String::new() },
                color: if is_found { RIGHT } else { WRONG },
            }
        })
        .collect();
    let mut found: Vec<(&CocoDetection, bool)> = results
        .detections
        .iter()
        .zip(&analysis.is_correct)
        .filter(|(detection, _)| detection.image_id == record.id && detection.score >= analysis.operating_point.score)
        .filter_map(|(detection, is_correct)| Some((detection, (*is_correct)?)))
        .collect();
    found.sort_by(|(a, _), (b, _)| b.score.total_cmp(&a.score));
    let is_labelled = found.len() <= MAX_LABELS;
    let name = |detection: &CocoDetection| {
        let category = results.dataset.categories.iter().find(|category| category.id == detection.category_id);
        let name = category.filter(|_| has_classes).map_or_else(String::new, |category| format!("{} ", category.name));
        format!("{name}{:.2}", detection.score)
    };
    let found: Vec<Item> = found
        .into_iter()
        .map(|(detection, is_correct)| Item {
            bbox: detection.bbox,
            mask: detection.mask(record.size).ok().flatten(),
            label: if is_labelled { name(detection) } else { String::new() },
            color: if is_correct { RIGHT } else { WRONG },
        })
        .collect();
    [truth, found].map(|items| data_uri(&render(pixels, &items, Scale::Exactly(SIDE_PX))))
}

/// An annotation's mask is decoded as a detection's is.
fn as_detection(record: &ImageRecord, object: &Annotation) -> CocoDetection {
    CocoDetection {
        image_id: record.id,
        category_id: 0,
        bbox: None,
        score: 1.0,
        segmentation: object.segmentation.clone(),
    }
}

fn data_uri(picture: &RgbImage) -> String {
    let mut jpeg = Cursor::new(Vec::new());
    let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY);
    encoder.encode_image(picture).expect("pictures of this size have a JPEG form, and memory takes it");
    format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg.into_inner()))
}
