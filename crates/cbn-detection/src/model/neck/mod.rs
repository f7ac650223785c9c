//! From the backbone's maps to a pyramid of equal width.

mod fpn;

pub use fpn::Fpn;
