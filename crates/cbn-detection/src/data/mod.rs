//! From a COCO-format folder to batches.
