//! The CD8xx rules: what could not be read.
