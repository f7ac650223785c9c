//! ResNet-20 on CIFAR-10 with any norm and any batch size:
//!
//! ```text
//! cargo run --release -p cbn --example cifar10 -- FOLDER --norm cbn --batch-size 2 --epochs 10 --out cbn.jsonl
//! ```
//!
//! SGD with momentum 0.9 and weight decay 1e-4 on all parameters, as He et al. The rate is theirs, 0.1 for a batch of 128,
//! scaled linearly with the batch (Goyal et al. 2017), and falls to 0 along a cosine. The last images of an epoch that make no
//! whole batch are left out.

// A command line prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the terminal's side")]

mod data;
mod resnet20;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::Device;
use cbn::norm::cbn::{Compensation, HistoryGradient};
use cbn::{BatchNormConfig, CbnConfig, FrozenNormConfig, GroupNormConfig, NormConfig};
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use data::Cifar10;
use resnet20::ResNet20;

/// Keeps freed feature maps mapped; see cbn-cli/src/main.rs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TEST_BATCH: usize = 250;

/// Trains ResNet-20 on CIFAR-10.
#[derive(Parser)]
struct Args {
    /// Folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin
    folder: PathBuf,
    /// Norm after every convolution
    #[arg(long, value_enum)]
    norm: NormName,
    /// Images per step
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    /// Passes over the training images
    #[arg(long, default_value_t = 20)]
    epochs: usize,
    /// Stop training after so many minutes; the cosine is still that of all epochs
    #[arg(long)]
    max_minutes: Option<f64>,
    /// Learning rate for a batch of 128; multiplied by batch size / 128
    #[arg(long, default_value_t = 0.1)]
    lr: f64,
    /// Of weights, order and crops
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Iterations in CBN's window, the current one included
    #[arg(long)]
    window: Option<usize>,
    /// Iterations before CBN's window opens
    #[arg(long)]
    burn_in: Option<usize>,
    /// File for one JSON object per epoch
    #[arg(long)]
    out: Option<PathBuf>,
    /// Train on the first so many images only
    #[arg(long)]
    train_images: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum NormName {
    /// Batch norm
    Bn,
    /// Group norm of 8 groups
    Gn,
    /// Cross-Iteration Batch Normalization as in the paper
    Cbn,
    /// CBN as the released code has it
    CbnPublished,
    /// CBN whose past moments pass their gradient to the weight
    CbnThroughWeight,
    /// The same with 512 patches of each past input replayed instead of first-order moments
    CbnExact,
    /// Scale and shift alone: frozen statistics of mean 0 and variance 1
    Frozen,
}

fn through_weight() -> CbnConfig {
    CbnConfig { history_gradient: HistoryGradient::ThroughWeight, ..CbnConfig::paper() }
}

impl Args {
    fn norm_config(&self) -> Result<NormConfig> {
        ensure!(self.window != Some(0), "--window 0: it counts the current iteration, so give at least 1");
        Ok(match self.norm {
            NormName::Bn => NormConfig::Batch(BatchNormConfig::default()),
            NormName::Gn => NormConfig::Group(GroupNormConfig::new(8)),
            NormName::Cbn => NormConfig::CrossIteration(self.cbn_config(CbnConfig::paper())),
            NormName::CbnPublished => NormConfig::CrossIteration(self.cbn_config(CbnConfig::published())),
            NormName::CbnThroughWeight => NormConfig::CrossIteration(self.cbn_config(through_weight())),
            NormName::CbnExact => {
                let compensation = Compensation::Exact { positions: 512 };
                NormConfig::CrossIteration(self.cbn_config(CbnConfig { compensation, ..through_weight() }))
            }
            NormName::Frozen => NormConfig::Frozen(FrozenNormConfig::default()),
        })
    }

    fn cbn_config(&self, preset: CbnConfig) -> CbnConfig {
        CbnConfig {
            window: self.window.unwrap_or(preset.window),
            burn_in_iterations: self.burn_in.unwrap_or(preset.burn_in_iterations),
            ..preset
        }
    }

    fn time_limit(&self) -> Result<Duration> {
        let minutes = self.max_minutes.unwrap_or(f64::MAX);
        ensure!(minutes > 0.0, "--max-minutes {minutes}: give a positive number");
        Ok(Duration::try_from_secs_f64(minutes * 60.0).unwrap_or(Duration::MAX))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // On a worker of the thread pool: a thread outside hands every operation over and sleeps until it is done, which costs a
    // quarter of the time where operations are this small.
    match rayon::scope(|_| train(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cifar10: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn train(args: &Args) -> Result<()> {
    let norm = args.norm_config()?;
    let train = Cifar10::train(&args.folder, args.train_images)?;
    let test = Cifar10::test(&args.folder)?;
    ensure!(
        (1..=train.len()).contains(&args.batch_size),
        "--batch-size {}: give a number from 1 to the {} training images",
        args.batch_size,
        train.len()
    );
    let mut out = match &args.out {
        Some(path) => Some(File::create(path).with_context(|| format!("--out {}: cannot create it", path.display()))?),
        None => None,
    };

    let device = Device::default().autodiff();
    device.seed(args.seed);
    let mut run = Run {
        model: ResNet20::new(&norm, &device),
        sgd: SgdConfig::new()
            .with_momentum(Some(MomentumConfig::new().with_dampening(0.0)))
            .with_weight_decay(Some(WeightDecayConfig::new(1e-4)))
            .init(),
        loss: CrossEntropyLossConfig::new().init(&device),
        rng: ChaCha8Rng::seed_from_u64(args.seed),
        iteration: 0,
        num_iterations: args.epochs * (train.len() / args.batch_size),
        base_rate: args.lr * args.batch_size as f64 / 128.0,
        trained: Duration::ZERO,
        time_limit: args.time_limit()?,
        device,
    };
    let settings = json!({
        "norm": norm, "batch_size": args.batch_size, "epochs": args.epochs, "max_minutes": args.max_minutes,
        "lr": run.base_rate, "seed": args.seed, "train_images": train.len(), "momentum": 0.9, "weight_decay": 1e-4,
    });
    println!("{settings}");
    for epoch in 1..=args.epochs {
        let line = run.epoch(epoch, &train, args.batch_size, &test, &settings)?;
        if let Some(out) = &mut out {
            writeln!(out, "{line}").context("cannot write --out")?;
        }
        if run.is_out_of_time() {
            println!("stopped after {} of {} iterations: --max-minutes is over", run.iteration, run.num_iterations);
            break;
        }
    }
    Ok(())
}

/// A training and where it stands.
struct Run {
    model: ResNet20,
    sgd: ModuleOptimizer,
    loss: CrossEntropyLoss,
    device: Device,
    rng: ChaCha8Rng,
    iteration: usize,
    num_iterations: usize,
    /// Before the cosine.
    base_rate: f64,
    /// Time spent in training, without tests.
    trained: Duration,
    time_limit: Duration,
}

impl Run {
    /// Trains on every image once or until the time is over, tests, and reports.
    fn epoch(
        &mut self,
        epoch: usize,
        train: &Cifar10,
        batch_size: usize,
        test: &Cifar10,
        settings: &Value,
    ) -> Result<Value> {
        let mut order: Vec<usize> = (0..train.len()).collect();
        order.shuffle(&mut self.rng);
        let (mut total_loss, mut num_steps) = (0.0, 0);
        let before = self.trained;
        for batch in order.chunks_exact(batch_size) {
            let start = Instant::now();
            total_loss += self.step(train, batch)?;
            num_steps += 1;
            self.trained += start.elapsed();
            if self.is_out_of_time() {
                break;
            }
        }
        let loss = total_loss / f64::from(num_steps);
        let seconds = (self.trained - before).as_secs_f64();
        let rate = (num_steps as usize * batch_size) as f64 / seconds;
        let accuracy = self.accuracy(test);
        println!(
            "epoch {epoch}: loss {loss:.4}, test accuracy {:.2} %, {seconds:.1} s, {rate:.0} images/s",
            100.0 * accuracy
        );
        Ok(json!({
            "epoch": epoch, "iteration": self.iteration, "loss": loss, "test_accuracy": accuracy, "seconds": seconds,
            "images_per_s": rate, "settings": settings,
        }))
    }

    fn step(&mut self, train: &Cifar10, batch: &[usize]) -> Result<f64> {
        let images = train.augmented(batch, &mut self.rng, &self.device);
        let labels = train.labels(batch, &self.device);
        let loss = self.loss.forward(self.model.forward(images), labels);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        ensure!(value.is_finite(), "the loss is {value} at iteration {}: give a smaller --lr", self.iteration + 1);
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        let progress = self.iteration as f64 / self.num_iterations as f64;
        let rate = self.base_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.model = self.sgd.step(rate, self.model.clone(), gradients);
        self.iteration += 1;
        Ok(value)
    }

    /// The share of test images whose label has the largest logit.
    fn accuracy(&self, test: &Cifar10) -> f64 {
        let model = self.model.valid();
        let device = self.device.clone().without_autodiff();
        let indices: Vec<usize> = (0..test.len()).collect();
        let mut num_right = 0;
        for batch in indices.chunks(TEST_BATCH) {
            let predicted = model.forward(test.images(batch, &device)).argmax(1).squeeze_dim(1);
            let right = predicted.equal(test.labels(batch, &device)).int().sum().into_scalar::<i64>();
            num_right += right;
        }
        num_right as f64 / test.len() as f64
    }

    fn is_out_of_time(&self) -> bool {
        self.trained >= self.time_limit
    }
}
