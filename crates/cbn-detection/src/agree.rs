//! One outcome for all processes.

use std::error::Error;

use cbn::process_group::Peers;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How one process fared.
#[derive(Serialize, Deserialize)]
enum Status<T> {
    Fine(T),
    Failed(String),
}

/// What every process says, by rank, unless one has failed: then all of them fail at the same point, and none waits for another.
///
/// # Errors
///
/// The own error, or one that `of_peer` makes of the rank and the words of the first process that has one.
pub(crate) fn agree<T, E>(
    own: Result<T, E>,
    peers: &Peers,
    of_peer: impl FnOnce(usize, String) -> E,
) -> Result<Vec<T>, E>
where
    T: Serialize + DeserializeOwned,
    E: Error,
{
    if peers.is_alone() {
        return own.map(|value| vec![value]);
    }
    let (status, error) = match own {
        Ok(value) => (Status::Fine(value), None),
        Err(error) => (Status::Failed(with_causes(&error)), Some(error)),
    };
    let bytes = serde_json::to_vec(&status).expect("a status has a JSON form");
    let mut values = Vec::new();
    let mut failure = error;
    for (rank, bytes) in peers.gather(&bytes).iter().enumerate() {
        match serde_json::from_slice(bytes).expect("all processes run one program") {
            Status::Fine(value) => values.push(value),
            Status::Failed(reason) => return Err(failure.take().unwrap_or_else(|| of_peer(rank, reason))),
        }
    }
    Ok(values)
}

fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
