use cbn::FeatureMap;

/// Feature maps of one batch at several scales, finest first.
#[derive(Debug, Clone)]
pub struct Pyramid {
    /// One map per level, all with the same B and C.
    pub levels: Vec<FeatureMap>,
    /// Network pixels per cell of each level.
    pub strides: Vec<usize>,
}
