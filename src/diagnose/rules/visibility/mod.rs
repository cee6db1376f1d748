//! The CD3xx rules: the visibility timeout.
