//! Box arithmetic on the host: coding, matching, sampling, suppression.
