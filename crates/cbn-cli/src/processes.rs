//! The processes that `mpirun` or `srun` started this one among.

use cbn::process_group::Peers;

/// What launchers tell a process about how many there are.
const SIZE_VARIABLES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"];

/// All of them; without a launcher, this one alone.
///
/// # Errors
///
/// A launcher started several, and this binary cannot reach the others.
pub fn join() -> anyhow::Result<Peers> {
    let of_launcher = SIZE_VARIABLES.iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    // Slurm sets its variables for every job, also where one process was started by hand.
    let of_slurm = || std::env::var_os("PMIX_RANK").and_then(|_| std::env::var("SLURM_NTASKS").ok()?.parse().ok());
    match of_launcher.or_else(of_slurm).unwrap_or(1) {
        0 | 1 => Ok(Peers::default()),
        size => reach(size),
    }
}

#[cfg(feature = "mpi")]
fn reach(_size: usize) -> anyhow::Result<Peers> {
    Ok(cbn::process_group::Mpi::init()?)
}

#[cfg(not(feature = "mpi"))]
fn reach(size: usize) -> anyhow::Result<Peers> {
    anyhow::bail!(
        "{size} processes were started, but this binary was built without MPI: tools/install_mpi.sh, then \
         cargo build --release -p cbn-cli --features mpi"
    )
}

/// Ends all processes where this one failed: others may wait for it. What another one has said already is not repeated.
pub fn fail_together(error: &anyhow::Error, peers: &Peers) {
    use cbn_detection::eval::EvalError;
    use cbn_detection::train::TrainError;
    let is_of_peer = error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(TrainError::Peer { .. } | TrainError::Eval(EvalError::Peer { .. })))
            || matches!(cause.downcast_ref(), Some(EvalError::Peer { .. }))
    });
    if !is_of_peer {
        let of_rank = if peers.is_alone() { String::new() } else { format!(" (rank {})", peers.rank()) };
        eprintln!("cbn{of_rank}: {error:#}");
    }
    if !peers.is_alone() {
        // Whoever failed at the same point has its say first.
        std::thread::sleep(std::time::Duration::from_millis(500));
        peers.abort();
    }
}
