//! Our side of `cargo xtask bench-peers conv`.
//!
//! Requests: `forward|backward B C H W K KERNEL STRIDE`. Backward means the gradients of input and weight.

#[path = "../../../tools/bench/server.rs"]
mod server;

use std::hint::black_box;
use std::time::Duration;

use cbn_kernels::{ConvShape, Epilogue, conv2d_backward_input, conv2d_backward_weight, conv2d_forward};

/// A convolution with its operands.
struct Case {
    sizes: [usize; 7],
    shape: ConvShape,
    x: Vec<f32>,
    weight: Vec<f32>,
    grad_y: Vec<f32>,
}

fn main() -> std::io::Result<()> {
    // The last shape's operands: both directions use them.
    let mut case = None;
    server::serve(move |request| {
        let sizes = server::numbers(request);
        let case = match case.take() {
            Some(last) if Case::is_of(&last, sizes) => case.insert(last),
            _ => case.insert(Case::new(sizes)),
        };
        let is_forward = request.starts_with("forward");
        (server::shorter(|| if is_forward { case.forward() } else { case.backward() }), String::new())
    })
}

impl Case {
    fn new(sizes: [usize; 7]) -> Self {
        let [batch, in_channels, in_height, in_width, out_channels, kernel, stride] = sizes;
        let shape = ConvShape {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 2],
            dilation: [1; 2],
            groups: 1,
        };
        let fill = |len: usize| (0..len).map(|i| (i * 7919 % 1000) as f32 / 1000.0 - 0.5).collect();
        Self {
            sizes,
            shape,
            x: fill(shape.input_len()),
            weight: fill(shape.weight_len()),
            grad_y: fill(shape.output_len()),
        }
    }

    fn is_of(&self, sizes: [usize; 7]) -> bool {
        self.sizes == sizes
    }

    /// Results are allocated anew, as in a network and as PyTorch does.
    fn forward(&self) -> Duration {
        let (elapsed, y) = server::timed(|| conv2d_forward(&self.shape, &self.x, &self.weight, &Epilogue::default()));
        black_box(y);
        elapsed
    }

    fn backward(&self) -> Duration {
        let (elapsed, gradients) = server::timed(|| {
            let grad_x = conv2d_backward_input(&self.shape, &self.grad_y, &self.weight);
            let mut grad_weight = vec![0.0; self.weight.len()];
            conv2d_backward_weight(&self.shape, &self.x, &self.grad_y, &mut grad_weight);
            (grad_x, grad_weight)
        });
        black_box(gradients);
        elapsed
    }
}
