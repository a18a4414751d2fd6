//! Chains of differencing images as 7-Zip and libvhdi read them.
//!
//! 7-Zip knows both formats, and finds parents beside the child by the paths that we recorded. libvhdi is asked for VHDX
//! only: in differencing VHDs it takes the bits of a bitmap byte for one.

use std::path::{Path, PathBuf};

use site_recovery::formats::create::{ChildOptions, CreateOptions};
use site_recovery::formats::info::Format;
use site_recovery::formats::{self, OpenOptions, WritableImage};
use site_recovery::lab::tools::debian;
use site_recovery::units::ByteRange;
use uuid::Uuid;

use crate::formats::support::{
    MIB, Numbers, SHAPES, Shape, assert_same, check_map, created, read_all, usize_of, write_file,
};
use crate::outside::{python_with_vhdi, run, tool};

const SIZE: u64 = 9 * MIB;

/// A disk of three layers, each written in parts and wholes of blocks, and what it holds.
struct Layered {
    folder: tempfile::TempDir,
    /// The child first.
    paths: Vec<PathBuf>,
    content: Vec<u8>,
    numbers: Numbers,
}

impl Layered {
    fn new(shape: Shape) -> Self {
        let extension = if shape.format == Format::Vhd {
            "vhd"
        } else {
            "vhdx"
        };
        let folder = tempfile::tempdir().unwrap();
        let mut layered = Layered {
            content: vec![0; usize_of(SIZE)],
            numbers: Numbers(5),
            paths: Vec::new(),
            folder,
        };
        let base = layered.folder.path().join(format!("base.{extension}"));
        let options = CreateOptions {
            block_size: None,
            ..shape.options(SIZE)
        };
        layered.write(formats::create(&base, &options).unwrap(), &base);
        for name in ["middle", "top"] {
            let path = layered.folder.path().join(format!("{name}.{extension}"));
            let options = ChildOptions {
                block_size: None,
                identifier: Uuid::new_v4(),
                created: created(),
            };
            let image = formats::create_child(&path, &layered.paths[0], &options).unwrap();
            layered.write(image, &path);
        }
        layered
    }

    fn write(&mut self, mut image: WritableImage, path: &Path) {
        let layers = u64::try_from(self.paths.len()).unwrap();
        for (at, len) in [
            (0, 40_000),
            (2 * MIB - 700, 1500),
            (4 * MIB, 2 * MIB),
            (8 * MIB, 512),
        ] {
            let at = at + 4096 * layers + 512 * layers;
            let bytes = self.numbers.bytes(usize_of(len / (1 + layers)));
            image.write_at(at, &bytes).unwrap();
            self.content[usize_of(at)..][..bytes.len()].copy_from_slice(&bytes);
        }
        let zero = ByteRange::at(layers * 2 * MIB, 2 * MIB).unwrap();
        image.write_zeroes(zero).unwrap();
        self.content[usize_of(zero.start())..usize_of(zero.end())].fill(0);
        image.close().unwrap();
        self.paths.insert(0, path.to_owned());
    }

    fn check_ours(&self) {
        let image = formats::open(&self.paths[0], &OpenOptions::default()).unwrap();
        assert_eq!(image.layers().count(), 3);
        assert_same(&read_all(&image).unwrap(), &self.content, "our reader");
        check_map(&image, &self.content);
    }
}

fn chains() -> impl Iterator<Item = Shape> {
    [SHAPES[1], SHAPES[2], SHAPES[3], SHAPES[4], SHAPES[6]].into_iter()
}

#[test]
fn seven_zip_reads_our_chains() {
    for shape in chains() {
        let layered = Layered::new(shape);
        layered.check_ours();
        let kind = if shape.format == Format::Vhd {
            "-tvhd"
        } else {
            "-tvhdx"
        };
        let mut seven_zip = tool("7zz", debian::SEVEN_ZIP);
        seven_zip.args(["e", "-so", kind]).arg(&layered.paths[0]);
        assert_same(
            &run(&mut seven_zip),
            &layered.content,
            &format!("7-Zip, {shape:?}"),
        );
    }
}

/// Reads a chain of images, the child first, and writes what the disk holds to standard output.
const PYVHDI: &str = "
import sys, pyvhdi
files = []
for path in sys.argv[1:]:
    file = pyvhdi.file()
    file.open(path)
    files.append(file)
for child, parent in reversed(list(zip(files, files[1:]))):
    child.set_parent(parent)
left = files[0].get_media_size()
while left:
    data = files[0].read(min(left, 1 << 20))
    left -= len(data)
    sys.stdout.buffer.write(data)
";

#[test]
fn libvhdi_reads_our_vhdx_chains() {
    for shape in chains().filter(|shape| shape.format == Format::Vhdx) {
        let layered = Layered::new(shape);
        let script = layered.folder.path().join("read.py");
        write_file(&script, PYVHDI.as_bytes());
        let mut python = python_with_vhdi();
        python.arg(&script).args(&layered.paths);
        assert_same(
            &run(&mut python),
            &layered.content,
            &format!("libvhdi, {shape:?}"),
        );
    }
}
