//! How long a group of MPI processes takes to add numbers up, as `cbn train` does with gradients and statistics.
//!
//! ```sh
//! cargo build --release --workspace --features cbn-cli/mpi --example exchange_speed
//! mpirun -n 2 target/release/examples/exchange_speed
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::Instant;

use cbn::process_group::{Mpi, MpiError, Peers};

/// The allocator of `cbn`: with the system's, fresh pages of buffers take longer than the exchange.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages of a statistic, of a layer's weights, of a bucket of gradients.
const VALUES: [usize; 6] = [1, 256, 4096, 64 * 1024, 1 << 20, 4 << 20];

fn main() -> Result<(), MpiError> {
    let peers = Mpi::init()?;
    if peers.is_first() {
        println!(
            "{} processes\n\n| f32 values | median ms | GB/s through each process |\n|---:|---:|---:|",
            peers.size()
        );
    }
    for values in VALUES {
        let seconds = median_s(&peers, values);
        let size = peers.size() as f64;
        // What each hands over where a sum is split over the processes.
        let bytes = 4.0 * values as f64 * 2.0 * (size - 1.0) / size;
        if peers.is_first() {
            println!("| {values} | {:.3} | {:.2} |", seconds * 1e3, bytes / seconds * 1e-9);
        }
    }
    Ok(())
}

fn median_s(peers: &Peers, values: usize) -> f64 {
    let mut numbers = vec![1.0f32; values];
    let mut times: Vec<f64> = (0..31)
        .map(|_| {
            peers.barrier();
            let began = Instant::now();
            peers.sum_f32(&mut numbers);
            numbers.fill(1.0);
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
