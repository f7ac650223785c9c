//! What happens to a finished tile of a convolution while it is still in the first-level cache.

use crate::isa::Target;
use crate::out::Out;
use crate::stream::Stream;

/// `y = relu(scale * conv + shift + residual)`, each part optional.
///
/// `scale` and `shift` have one value per output channel (a frozen norm, or a bias), `residual` the shape of `y`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Per-channel factor.
    pub scale: Option<&'a [f32]>,
    /// Per-channel addend.
    pub shift: Option<&'a [f32]>,
    /// Added to every element.
    pub residual: Option<&'a [f32]>,
    /// Whether negative results become zero.
    pub relu: bool,
}

impl<'a> Epilogue<'a> {
    pub(crate) fn check(&self, channels: usize, output_len: usize) {
        for (name, values) in [("scale", self.scale), ("shift", self.shift)] {
            if let Some(values) = values {
                assert_eq!(values.len(), channels, "{name} has one value per output channel");
            }
        }
        if let Some(residual) = self.residual {
            assert_eq!(residual.len(), output_len, "the residual has the shape of the output");
        }
    }

    /// The epilogue of the part `start..end` of the output.
    pub(crate) fn narrow(&self, start: usize, end: usize) -> Self {
        Self { residual: self.residual.map(|residual| &residual[start..end]), ..*self }
    }

    /// Finishes channels from `channel` on: `sums` holds them and is used as working memory, `offset` is where `out` starts in the
    /// residual. They are written past the caches if there is a stream.
    #[inline(always)]
    pub(crate) fn finish<T: Target>(
        &self,
        sums: &mut [f32],
        channel: usize,
        offset: usize,
        (stream, out): (Option<&Stream>, &mut Out),
    ) {
        self.apply(sums, channel, offset);
        match stream {
            Some(stream) => stream.copy::<T>(sums, out),
            None => _ = out.write_copy_of_slice(sums),
        }
    }

    #[inline(always)]
    fn apply(&self, sums: &mut [f32], channel: usize, offset: usize) {
        let count = sums.len();
        if let Some(scale) = self.scale {
            for (sum, scale) in sums.iter_mut().zip(&scale[channel..channel + count]) {
                *sum *= scale;
            }
        }
        if let Some(shift) = self.shift {
            for (sum, shift) in sums.iter_mut().zip(&shift[channel..channel + count]) {
                *sum += shift;
            }
        }
        if let Some(residual) = self.residual {
            for (sum, residual) in sums.iter_mut().zip(&residual[offset..offset + count]) {
                *sum += residual;
            }
        }
        if self.relu {
            for sum in sums {
                *sum = if *sum < 0.0 { 0.0 } else { *sum };
            }
        }
    }
}
