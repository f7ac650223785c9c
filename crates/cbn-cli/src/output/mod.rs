//! What the user sees.

pub mod expected;
pub mod overlay;
pub mod progress;
pub mod scores;
