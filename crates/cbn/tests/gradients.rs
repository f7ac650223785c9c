//! Outputs and gradients of cross-iteration blocks against an f64 model of the whole step.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use cbn::norm::cbn::{Compensation, HistoryGradient, Validity};
use cbn::{CbnConfig, ConvNorm, ConvNormConfig, Norm};
use common::reference::{Conv, Past, Step, normal, numeric_gradient, past_moments};
use common::{cbn, floats, param, relative_error, training_device};

/// f32 sums of some hundred products on one side, f64 on the other: a few 1e-7.
const TOLERANCE: f64 = 1e-6;

fn convolutions() -> [Conv; 6] {
    let plain = Conv {
        channels: [4, 6],
        size: [6, 5],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
    };
    [
        plain,
        Conv { kernel: [1, 1], padding: [0, 0], ..plain },
        Conv { stride: [2, 2], groups: 2, ..plain },
        Conv { kernel: [3, 2], stride: [1, 2], padding: [2, 1], dilation: [2, 1], ..plain },
        Conv { channels: [6, 6], kernel: [5, 5], padding: [2, 2], groups: 6, ..plain },
        // More numbers in a patch than positions in any of the batches.
        Conv { channels: [16, 4], size: [4, 3], ..plain },
    ]
}

/// Positions that an exact compensation samples: all, in every scene.
const ALL: Compensation = Compensation::Exact { positions: 100 };

fn configs() -> [(&'static str, CbnConfig); 9] {
    let through = CbnConfig { history_gradient: HistoryGradient::ThroughWeight, ..CbnConfig::paper() };
    [
        ("paper", CbnConfig::paper()),
        ("published", CbnConfig::published()),
        ("rho 0.5", CbnConfig { compensation: Compensation::FirstOrder { rho: 0.5 }, ..CbnConfig::published() }),
        ("naive", CbnConfig { compensation: Compensation::None {}, ..CbnConfig::paper() }),
        ("through weight", through.clone()),
        ("fading", CbnConfig { fading: 0.5, ..through.clone() }),
        ("exact", CbnConfig { compensation: ALL, ..CbnConfig::paper() }),
        ("exact, through weight", CbnConfig { compensation: ALL, ..through.clone() }),
        ("through weight, clamped", CbnConfig { validity: Validity::ClampToMean, ..through }),
    ]
}

/// Three past iterations of other batch sizes, the first two under one weight as in gradient accumulation, and a step so
/// large that first order leaves some channels an invalid entry.
struct Scene {
    conv: Conv,
    past: Vec<Past>,
    x: Vec<f64>,
    weight: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    upstream: Vec<f64>,
}

impl Scene {
    fn new(conv: Conv) -> Self {
        let image = conv.channels[0] * conv.size[0] * conv.size[1];
        let weights = conv.weight_shape().iter().product();
        let weight = normal(1, weights, 0.05, 0.4);
        let moved = |seed, by| -> Vec<f64> {
            let step = normal(seed, weights, 0.0, by);
            // Channels move by other amounts; rounded as the layer's weights are.
            let rows = weights / conv.channels[1];
            weight
                .iter()
                .zip(step)
                .enumerate()
                .map(|(i, (w, d))| f64::from((w + d * (i / rows) as f64) as f32))
                .collect()
        };
        let past = [(1, 3, 0.1), (2, 3, 0.1), (3, 4, 0.02)];
        let past = past.map(|(images, seed, by)| Past {
            x: normal(10 + images as u64, images * image, 0.3, 1.0),
            weight: moved(seed, by),
        });
        let outputs = 2 * conv.channels[1] * conv.output_size().iter().product::<usize>();
        Self {
            conv,
            past: past.to_vec(),
            x: normal(5, 2 * image, 0.3, 1.0),
            weight,
            gamma: normal(6, conv.channels[1], 1.0, 0.2),
            beta: normal(7, conv.channels[1], 0.0, 0.2),
            upstream: normal(8, outputs, 0.1, 1.0),
        }
    }

    fn layer(&self, config: &CbnConfig, device: &Device) -> ConvNorm {
        let conv = &self.conv;
        let mut layer = ConvNormConfig::new(conv.channels, conv.kernel)
            .with_stride(conv.stride)
            .with_padding(conv.padding)
            .with_dilation(conv.dilation)
            .with_groups(conv.groups)
            .with_norm(cbn(config.clone()))
            .init(device);
        if let Norm::CrossIteration(norm) = &mut layer.norm {
            norm.gamma = norm.gamma.as_ref().map(|gamma| param(&self.gamma, gamma));
            norm.beta = norm.beta.as_ref().map(|beta| param(&self.beta, beta));
        }
        for Past { x, weight } in &self.past {
            layer = self.with_weight(layer, weight, device);
            layer.forward_nchw(self.map(x, device));
        }
        self.with_weight(layer, &self.weight, device)
    }

    fn with_weight(&self, layer: ConvNorm, weight: &[f64], device: &Device) -> ConvNorm {
        let weight = tensor(weight, self.conv.weight_shape(), device);
        ConvNorm { weight: layer.weight.clone().map(|_| weight.require_grad()), ..layer }
    }

    fn map(&self, x: &[f64], device: &Device) -> Tensor<4> {
        let [height, width] = self.conv.size;
        let channels = self.conv.channels[0];
        tensor(x, [x.len() / (channels * height * width), channels, height, width], device)
    }
}

fn tensor(values: &[f64], shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.iter().map(|x| *x as f32).collect::<Vec<f32>>(), shape), device)
}

fn weighted_sum(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(a, b)| a * b).sum()
}

#[test]
fn outputs_and_gradients_match_central_differences_in_f64() {
    let device = training_device();
    let mut discarded = 0;
    for (conv, (name, config)) in convolutions().into_iter().flat_map(|conv| configs().map(|config| (conv, config))) {
        let scene = Scene::new(conv);
        let what = format!("{name}, {conv:?}");
        let layer = scene.layer(&config, &device);
        let x = scene.map(&scene.x, &device).require_grad();
        let y = layer.forward_nchw(x.clone());
        let [height, width] = conv.output_size();
        let upstream = tensor(&scene.upstream, [2, conv.channels[1], height, width], &device);
        let grads = (y.clone() * upstream).sum().backward();

        let then = past_moments(&conv, &config, &scene.past, &scene.weight);
        discarded +=
            then.iter().flat_map(|(mean, second, _)| mean.iter().zip(second)).filter(|(m, s)| *s < &(*m * *m)).count();
        let step = Step { conv, config: &config, gamma: &scene.gamma, beta: &scene.beta };
        let expected = step.forward(&scene.x, &scene.weight, &then);
        let assert_close = |ours: Vec<f32>, expected: &[f64], of: &str| {
            let error = relative_error(&ours, expected);
            assert!(error < TOLERANCE, "{of} of {what}: relative error {error:e}");
        };
        assert_close(floats(y), &expected, "output");

        let loss = |output: Vec<f64>| weighted_sum(&output, &scene.upstream);
        let of_x = numeric_gradient(&scene.x, |x| loss(step.forward(x, &scene.weight, &then)));
        assert_close(floats(x.grad(&grads).expect("asked for")), &of_x, "input gradient");
        // Held constant, or functions of the weight.
        let of_weight = numeric_gradient(&scene.weight, |weight| match config.history_gradient {
            HistoryGradient::None => loss(step.forward(&scene.x, weight, &then)),
            HistoryGradient::ThroughWeight => {
                let now = past_moments(&conv, &config, &scene.past, weight);
                loss(step.forward(&scene.x, weight, &now))
            }
        });
        assert_close(floats(layer.weight.val().grad(&grads).expect("it trains")), &of_weight, "weight gradient");
        let of_gamma = numeric_gradient(&scene.gamma, |gamma| {
            loss(Step { gamma, ..step }.forward(&scene.x, &scene.weight, &then))
        });
        let of_beta =
            numeric_gradient(&scene.beta, |beta| loss(Step { beta, ..step }.forward(&scene.x, &scene.weight, &then)));
        let Norm::CrossIteration(norm) = &layer.norm else { unreachable!("configured so") };
        for (param, expected, of) in [(&norm.gamma, of_gamma, "gamma gradient"), (&norm.beta, of_beta, "beta gradient")]
        {
            let grad = param.as_ref().and_then(|param| param.val().grad(&grads)).expect("it trains");
            assert_close(floats(grad), &expected, of);
        }
    }
    assert!(discarded > 20, "the scenes have invalid entries, found {discarded}");
}

/// The output does not depend on the length of a channel's weight if all moments follow it, so the gradient has no part along it.
#[test]
fn the_gradient_along_the_weight_is_that_of_its_length() {
    let device = training_device();
    let along = |compensation: Compensation, history_gradient: HistoryGradient| {
        let config = CbnConfig { compensation, history_gradient, epsilon: 0.0, ..CbnConfig::paper() };
        let scene = Scene::new(convolutions()[0]);
        let layer = scene.layer(&config, &device);
        let y = layer.forward_nchw(scene.map(&scene.x, &device));
        let upstream = Tensor::from_data(y.clone().inner().powi_scalar(2).into_data(), &device);
        let grads = (y * upstream).sum().backward();
        let [grad, weight] = [layer.weight.val().grad(&grads).expect("it trains"), layer.weight.val().inner()];
        let dot = |a: &Tensor<4>, b: &Tensor<4>| (a.clone() * b.clone()).sum().into_scalar::<f32>();
        dot(&grad, &weight).abs() / (dot(&grad, &grad) * dot(&weight, &weight)).sqrt()
    };
    // Rounding of the dot product of 216 numbers of both signs, and of the gradient.
    assert!(along(ALL, HistoryGradient::ThroughWeight) < 1e-6);
    let without = along(ALL, HistoryGradient::None);
    assert!(without > 1e-2, "held constant, the past leaves a part along the weight: {without}");
}
