//! Virtual disk images: our readers and writers against models, crashes, hostile bytes, and tools that are not ours.
//!
//! What judges what (the others get it wrong, or do not know it): qemu for dynamic and fixed images of both formats and
//! for dirty logs; 7-Zip for differencing VHDs; 7-Zip and libvhdi for differencing VHDXs.

mod chains;
mod crash;
mod hostile;
mod large;
mod merging;
mod model;
mod qemu;
mod readers;
mod support;
