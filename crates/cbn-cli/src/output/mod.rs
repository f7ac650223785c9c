//! What the user sees.

pub mod expected;
pub mod progress;
pub mod scores;
