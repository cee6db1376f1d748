//! Renderers. They draw what was judged, and judge nothing.

pub mod explain;
pub mod json;
pub mod plain;
pub mod table;
#[cfg(test)]
mod tests;
mod text;
mod words;
