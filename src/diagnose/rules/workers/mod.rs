//! The CD7xx rules: workers.
