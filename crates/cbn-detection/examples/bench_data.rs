//! Our side of `cargo xtask bench-peers data`: batches of two, decoded, resized, normalised, padded.
//!
//! usage: `bench_data ANNOTATIONS IMAGES`; `RAYON_NUM_THREADS` sets the number of workers.

#[path = "../../../tools/bench/server.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;

use cbn_detection::data::{Dataset, LoaderConfig, TestLoader, TransformConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [annotations, images_dir] = server::arguments();
    let num_workers = std::env::var("RAYON_NUM_THREADS")?.parse()?;
    let dataset = Arc::new(Dataset::load(Path::new(&annotations), Path::new(&images_dir))?);
    let config = LoaderConfig { num_workers, ..LoaderConfig::default() };
    let loader = TestLoader::new(dataset, TransformConfig::default(), config)?;
    server::serve(move |_request| {
        let (elapsed, count) = server::timed(|| {
            loader
                .batches()
                .map(|batch| batch.expect("the prepared list names readable images").metas.len())
                .sum::<usize>()
        });
        (elapsed, count.to_string())
    })?;
    Ok(())
}
