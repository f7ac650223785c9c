//! What follows a norm.

/// What follows a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    pub(crate) fn is_relu(self) -> bool {
        self == Self::Relu
    }
}
