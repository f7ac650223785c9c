//! Weights of other libraries: in by their names, out again under them.

mod caffe2;
mod class_rows;
mod error;
mod layout;
mod load;
mod mismatch;
mod numpy_pickle;
mod save;
mod state_dict;
mod style;
mod tables;

pub use error::WeightsError;
pub use layout::WeightLayout;
pub use load::{LoadConfig, Loaded, load_backbone, load_detector};
pub use mismatch::StateMismatch;
pub use save::export_detector;
pub use state_dict::StateDict;
pub use style::{BackboneStyle, PIXEL_STD};
