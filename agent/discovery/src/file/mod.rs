//! One YAML document, watched: `--discovery file:PATH`.

mod model;
mod parse;
mod watch;

pub use model::{MeshFile, schema};
pub use parse::{FILE_MAX, FileError, parse};
pub use watch::watch;

#[cfg(test)]
mod tests;
