//! What people look at: detections drawn over pictures, and reports of training runs as one HTML file.
//!
//! [`overlay::render`] draws. [`Run::open`] reads what a training left in its work directory, [`report`] makes a page of one
//! run or of several side by side.

mod chart;
mod error;
mod log;
pub mod overlay;
mod page;
mod run;
mod sections;

pub use error::ReportError;
pub use run::{Run, RunPaths};
pub use sections::{ReportConfig, report};
