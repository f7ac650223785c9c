//! Gradient descent and the norm of gradients against `f64`, PyTorch and themselves on other numbers of threads.

use cbn_kernels::{SgdStep, sum_of_squares};

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i + seed) * 7919 % 10_007) as f32 / 10_007.0 - 0.3).collect()
}

/// Three threads cut work otherwise than one.
fn on_threads<R: Send>(count: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a pool of threads").install(work)
}

#[test]
fn a_step_is_its_definition_on_any_number_of_threads() {
    let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, gradient_scale: 0.25 };
    for len in [0, 1, 17, 100_003] {
        let [weight, gradient, velocity] = [0, 5, 9].map(|seed| values(len, seed));
        let moved = |threads| {
            let (mut weight, mut velocity) = (weight.clone(), velocity.clone());
            on_threads(threads, || step.apply(&mut weight, &gradient, &mut velocity));
            (weight, velocity)
        };
        let (moved_weight, moved_velocity) = moved(1);
        for i in 0..len {
            let [weight, velocity] = step.reference(weight[i].into(), gradient[i].into(), velocity[i].into());
            // Roundings of numbers below 1, and of the four constants.
            assert!((f64::from(moved_weight[i]) - weight).abs() <= 2e-7, "weight {i}: {} {weight}", moved_weight[i]);
            assert!((f64::from(moved_velocity[i]) - velocity).abs() <= 2e-7, "velocity {i}");
        }
        assert!((moved_weight, moved_velocity) == moved(3), "{len} values on three threads");
    }
}

/// ```python
/// w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
/// o = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01)
/// for g in ([0.5, 1.0, -1.0], [0.25, -1.0, 0.0], [-0.5, 0.5, 2.0]):
///     w.grad = torch.tensor(g)
///     norm = torch.nn.utils.clip_grad_norm_([w], 1.2)
///     o.step()
///     print(float(norm), w.tolist())
/// print(o.state[w]["momentum_buffer"].tolist())
/// ```
///
/// PyTorch 2.11.
#[test]
fn steps_are_those_of_pytorch() {
    let expected = [
        ([0.5, 1.0, -1.0], 1.5, [0.959, -2.078, 0.579_5]),
        ([0.25, -1.0, 0.0], 1.030_776_4, [0.896_141_05, -2.046_122, 0.650_470_44]),
        ([-0.5, 0.5, 2.0], 2.121_320_2, [0.866_956_1, -2.043_67, 0.600_556_3]),
    ];
    let (mut weight, mut velocity) = ([1.0, -2.0, 0.5], [0.0; 3]);
    let close = |found: f32, expected: f32| (found - expected).abs() <= 3e-7;
    for (gradient, norm, moved) in expected {
        let found = sum_of_squares(&gradient).sqrt();
        assert!(close(found as f32, norm), "norm {found}, expected {norm}");
        let gradient_scale = (1.2 / (found + 1e-6)).min(1.0) as f32;
        let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, gradient_scale };
        step.apply(&mut weight, &gradient, &mut velocity);
        assert!((0..3).all(|i| close(weight[i], moved[i])), "{weight:?}, expected {moved:?}");
    }
    let last = [0.291_849_55, -0.024_520_934, 0.499_140_98];
    // The velocity holds tenfold what the weights round away.
    assert!((0..3).all(|i| (velocity[i] - last[i]).abs() <= 3e-6), "{velocity:?}");
}

#[test]
fn sums_of_squares_are_those_of_f64_on_any_number_of_threads() {
    for len in [0, 1, 300, 200_001] {
        let values = values(len, 3);
        let sum = on_threads(1, || sum_of_squares(&values));
        let truth: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        // Blocks of 16 products in each f32 sum: a few roundings of 6e-8.
        assert!((sum - truth).abs() <= 5e-7 * truth, "{len} values: {sum}, expected {truth}");
        assert_eq!(sum, on_threads(3, || sum_of_squares(&values)));
    }
}
