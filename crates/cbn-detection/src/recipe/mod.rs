//! Strict TOML recipes and their resolution.
//!
//! A [`Recipe`] is what its author wrote, a [`Plan`] is what a run does. [`resolve`] turns the one into the other, once the
//! data set is known: class count and epoch length come from there.

mod conventions;
mod error;
mod norm;
mod overrides;
mod plan;
mod resolve;
mod schema;

pub use conventions::Conventions;
pub use error::RecipeError;
pub use norm::{CbnPreset, CbnSpec, NormSection, NormSpec};
pub use plan::Plan;
pub use resolve::{DataFacts, resolve, test_loader, train_loader, transform};
pub use schema::{
    CosineSection, DataSection, Expected, Length, ModelSection, Moments, Recipe, TestSection, TrainSection, Warmup,
};
