//! From detections to COCO numbers and reports.
