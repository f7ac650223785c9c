//! What happens to a finished tile of a convolution while it is still in the first-level cache.

use super::microkernel::LANES;
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

    /// Finishes channels from `channel` on: `sums` holds them, `offset` is where `out` starts in the residual. They are written past
    /// the caches if there is a stream.
    #[inline(always)]
    pub(crate) fn finish<T: Target>(
        &self,
        sums: &[f32],
        channel: usize,
        offset: usize,
        (stream, out): (Option<&Stream>, &mut Out),
    ) {
        let count = sums.len();
        let out = &mut out[..count];
        let stream = stream.filter(|_| Stream::takes(out));
        let scale = self.scale.map(|scale| &scale[channel..channel + count]);
        let shift = self.shift.map(|shift| &shift[channel..channel + count]);
        let residual = self.residual.map(|residual| &residual[offset..offset + count]);
        let part = Self { scale, shift, residual, relu: self.relu };
        let whole = count - count % LANES;
        for at in (0..whole).step_by(LANES) {
            let values = part.apply::<LANES>(&sums[at..], at);
            let out = &mut out[at..at + LANES];
            match stream {
                Some(stream) => stream.store::<T>(&values, out),
                None => _ = out.write_copy_of_slice(&values),
            }
        }
        for at in whole..count {
            out[at].write(part.apply::<1>(&sums[at..], at)[0]);
        }
    }

    /// Some sums, finished, from `at` on of what the parts are for.
    #[inline(always)]
    fn apply<const N: usize>(&self, sums: &[f32], at: usize) -> [f32; N] {
        let mut values = [0.0; N];
        values.copy_from_slice(&sums[..N]);
        if let Some(scale) = self.scale {
            for (value, scale) in values.iter_mut().zip(&scale[at..at + N]) {
                *value *= scale;
            }
        }
        if let Some(shift) = self.shift {
            for (value, shift) in values.iter_mut().zip(&shift[at..at + N]) {
                *value += shift;
            }
        }
        if let Some(residual) = self.residual {
            for (value, residual) in values.iter_mut().zip(&residual[at..at + N]) {
                *value += residual;
            }
        }
        if self.relu {
            for value in &mut values {
                *value = if *value < 0.0 { 0.0 } else { *value };
            }
        }
        values
    }
}
