//! Strict TOML recipes and their resolution.
