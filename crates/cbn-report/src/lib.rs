//! What people look at: detections drawn over pictures, and reports of training runs as one HTML file.
pub mod overlay;
