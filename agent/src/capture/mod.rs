//! From what discovery wants to what the kernel has: pods of this node are captured and released, and
//! the kernel's mesh destinations follow the snapshot.

mod destinations;
mod direct;
mod hold;
mod listeners;
mod locate;
pub mod plaintext;
mod pod;
mod reconcile;
mod second_line;
mod strict;

pub use direct::Doubted;
pub use listeners::{Family, PodListener};
pub use locate::{Locator, NodePods};
pub use pod::{ConnectionOf, Pod, Pods};
pub use reconcile::{Capturer, Certificate, Inputs, PodReport, ToWorker};
pub use second_line::Wires;
pub use strict::{GuardReport, StrictReport};
