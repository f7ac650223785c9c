//! From images to feature maps of falling resolution.

mod resnet;

pub use resnet::{ResNet, ResidualBlock};
