//! The CD5xx rules: results.
