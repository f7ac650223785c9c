//! A step of gradient descent with momentum, and the norm that gradients are clipped by.

use rayon::prelude::*;

use crate::isa::{Isa, Kernels, Target, per_isa};
use crate::row_dots::dot;

/// Values that a thread takes at once.
const PART: usize = 1 << 15;

/// The numbers of a step.
///
/// ```text
/// g = gradient_scale * gradient + weight_decay * w
/// v = momentum * v + g
/// w = w - learning_rate * v
/// ```
///
/// PyTorch 2.11 `torch.optim.SGD` without dampening and Nesterov momentum. PyTorch's first step has `v = g`, which is what a velocity of zeros
/// gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// How far.
    pub learning_rate: f32,
    /// Share of the velocity that stays.
    pub momentum: f32,
    /// L2 penalty.
    pub weight_decay: f32,
    /// What every gradient is multiplied by first: 1, or less where gradients are clipped.
    pub gradient_scale: f32,
}

impl SgdStep {
    /// Moves weight and velocity in one pass over the three.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn apply(&self, weight: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
        assert!(
            weight.len() == gradient.len() && weight.len() == velocity.len(),
            "a gradient and a velocity per weight"
        );
        let kernels = Kernels::new(Isa::detect());
        let parts = weight.par_chunks_mut(PART).zip(gradient.par_chunks(PART)).zip(velocity.par_chunks_mut(PART));
        parts.for_each(|((weight, gradient), velocity)| apply_part(kernels, self, weight, gradient, velocity));
    }

    /// The definition of [`SgdStep::apply`], for one weight: the new weight and velocity.
    pub fn reference(&self, weight: f64, gradient: f64, velocity: f64) -> [f64; 2] {
        let gradient = f64::from(self.gradient_scale) * gradient + f64::from(self.weight_decay) * weight;
        let velocity = f64::from(self.momentum) * velocity + gradient;
        [weight - f64::from(self.learning_rate) * velocity, velocity]
    }
}

per_isa! {
    fn apply_part(step: &SgdStep, weight: &mut [f32], gradient: &[f32], velocity: &mut [f32]) = apply_part_body
}

#[inline(always)]
fn apply_part_body<T: Target>(step: &SgdStep, weight: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
    let SgdStep { learning_rate, momentum, weight_decay, gradient_scale } = *step;
    for ((weight, gradient), velocity) in weight.iter_mut().zip(gradient).zip(velocity) {
        let decayed = T::mul_add(weight_decay, *weight, gradient_scale * gradient);
        *velocity = T::mul_add(momentum, *velocity, decayed);
        *weight = T::mul_add(-learning_rate, *velocity, *weight);
    }
}

/// The sum of squares: products are summed in `f32`, sixteen at most in each sum, the sums in `f64`.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let kernels = Kernels::new(Isa::detect());
    let sums: Vec<f64> = values
        .par_chunks(PART)
        .map(|part| {
            let mut sum = 0.0;
            dot(kernels, part, part, &mut sum);
            sum
        })
        .collect();
    sums.into_iter().sum()
}
