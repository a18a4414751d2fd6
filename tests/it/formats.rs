//! Virtual disk images: our readers and writers against models, crashes, hostile bytes, and tools that are not ours.
//!
//! What judges what (the others get it wrong, or do not know it): qemu for dynamic and fixed images of both formats and
//! for dirty logs; 7-Zip for differencing VHDs; 7-Zip and libvhdi for differencing VHDXs.

// By this attribute the lints know helpers for what they are: parts of tests.
#[cfg(test)]
mod chains;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod large;
#[cfg(test)]
mod merging;
#[cfg(test)]
mod model;
#[cfg(test)]
mod qemu;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod support;
