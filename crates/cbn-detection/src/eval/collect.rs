use super::results::mask_to_rle;
use super::{CocoDetection, paste_mask};
use crate::data::ImageMeta;
use crate::structures::{Detections, SoftMask};

/// Brings the detections of one image back to its original pixels: boxes are scaled and clipped, masks pasted and encoded.
///
/// `category_ids` holds the COCO id of each label. Detections whose box lies outside the image are dropped.
///
/// # Panics
///
/// If a label has no entry in `category_ids`.
pub fn collect(detections: &Detections, meta: &ImageMeta, category_ids: &[u64]) -> Vec<CocoDetection> {
    let conventions = meta.conventions;
    let mut collected = Vec::with_capacity(detections.len());
    for (index, bbox) in detections.boxes.iter().enumerate() {
        let bbox = conventions.boxes.to_original(bbox, meta.scale, meta.original);
        if bbox.is_empty() {
            continue;
        }
        let paste = |masks: &Vec<SoftMask>| paste_mask(&masks[index], &bbox, meta.original, conventions.paste);
        let mask = detections.masks.as_ref().map(paste);
        collected.push(CocoDetection {
            image_id: meta.image_id,
            category_id: category_ids[detections.labels[index]],
            bbox: Some(bbox.to_xywh()),
            score: f64::from(detections.scores[index]),
            segmentation: mask.as_ref().map(mask_to_rle),
        });
    }
    collected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TransformConventions;
    use crate::structures::{BBox, ImageSize};
    use hotcoco::mask;

    #[test]
    fn boxes_and_masks_return_to_original_pixels() {
        let detections = Detections {
            boxes: vec![BBox::new(2.0, 4.0, 8.0, 12.0), BBox::new(50.0, 0.0, 60.0, 10.0)],
            scores: vec![0.75, 0.5],
            labels: vec![1, 0],
            masks: Some(vec![SoftMask { side: 1, probabilities: vec![1.0] }; 2]),
        };
        let meta = ImageMeta {
            image_id: 42,
            file_name: "a.png".to_owned(),
            original: ImageSize::new(10, 20),
            scale: [2.0, 2.0],
            conventions: TransformConventions::default(),
        };
        let collected = collect(&detections, &meta, &[7, 9]);
        assert_eq!(collected.len(), 1, "the second box lies outside the image");
        let detection = &collected[0];
        assert_eq!((detection.image_id, detection.category_id, detection.score), (42, 9, 0.75));
        assert_eq!(detection.bbox, Some([1.0, 2.0, 3.0, 4.0]));
        let rle = detection.segmentation.as_ref().unwrap().to_rle(10, 20).unwrap();
        // One cell stretched over the box: the outer pixels, half a pixel from its edges, get less than one half.
        assert!(mask::area(&rle) > 0);
        let [x, y, w, h] = mask::to_bbox(&rle);
        assert!(x >= 1.0 && y >= 2.0 && x + w <= 4.0 && y + h <= 6.0);
    }
}
