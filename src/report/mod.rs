//! Renderers. They draw what was judged, and judge nothing.

mod asked;
pub(crate) mod audit;
pub(crate) mod explain;
pub(crate) mod github;
pub(crate) mod gitlab;
pub(crate) mod graph;
pub(crate) mod json;
pub(crate) mod jsonl;
pub(crate) mod junit;
pub(crate) mod markdown;
pub(crate) mod nagios;
pub(crate) mod plain;
pub(crate) mod prometheus;
pub(crate) mod routes;
#[cfg(test)]
mod samples;
pub(crate) mod sarif;
pub(crate) mod summary;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub(crate) use self::asked::{Asked, TakenId};
