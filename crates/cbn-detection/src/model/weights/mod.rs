//! Weights of other libraries, by their names.

mod load;
mod mismatch;
mod state_dict;
mod torchvision;

pub use load::{load_backbone, load_detector};
pub use mismatch::StateMismatch;
pub use state_dict::{StateDict, WeightsError};
