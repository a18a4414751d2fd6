//! The images that are left are judged by tools that are not ours: qemu for single ones, 7-Zip for chains.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use site_recovery::formats;
use site_recovery::formats::create::{Allocation, ChildOptions, CreateOptions};
use site_recovery::formats::info::Format;
use site_recovery::host::lab::spec::{DiskContent, ImageFormat, ImageKind};
use site_recovery::host::{Consistency, Hypervisor as _};
use site_recovery::lab::guest::client::Client;
use site_recovery::lab::tools::debian;
use site_recovery::units::{ByteRange, MIB, to_usize};
use uuid::Uuid;

use crate::hypervisor::judge::{qemu_agrees, seven_zip_agrees};
use crate::hypervisor::rig::{Rig, images_in, slot};
use crate::outside::{run, tool};

const SIZE: u64 = 7 * MIB;

fn new(format: ImageFormat, kind: ImageKind) -> DiskContent {
    DiskContent::New {
        format,
        kind,
        size: SIZE,
        block_size: None,
        logical_sector: 512,
        physical_sector: 512,
    }
}

/// Writes here and there, over the borders of blocks, and zeroes some of it again; returns what the disk holds then.
fn scribble(client: &mut Client, content: &mut [u8], seed: u8) {
    for number in 0..24_u64 {
        let at = (number * 700_000 + u64::from(seed) * 11_111) / 512 * 512 % (SIZE - 4096);
        let length = 512 * (1 + number % 8);
        let (start, end) = (to_usize(at), to_usize(at + length));
        if number % 6 == 5 {
            let range = ByteRange::at(at, length).unwrap();
            client.write_zeroes(range).unwrap();
            content[start..end].fill(0);
        } else {
            content[start..end].fill(seed.wrapping_add(u8::try_from(number).unwrap()));
            client.write(at, &content[start..end]).unwrap();
        }
    }
    client.flush().unwrap();
}

#[test]
fn a_merged_image_is_a_good_image_for_qemu() {
    let rig = Rig::start();
    let kinds = [
        (ImageFormat::Vhdx, ImageKind::Dynamic),
        (ImageFormat::Vhdx, ImageKind::Fixed),
        (ImageFormat::Vhd, ImageKind::Dynamic),
        (ImageFormat::Vhd, ImageKind::Fixed),
    ];
    let disks = kinds.map(|(format, kind)| new(format, kind)).to_vec();
    let vm = rig.machine("web", disks);
    let slots = [0, 1, 2, 3].map(slot);
    let mut contents = vec![vec![0; to_usize(SIZE)]; 4];
    for seed in [1, 50, 100] {
        for (slot, content) in slots.iter().zip(&mut contents) {
            scribble(&mut rig.connect("web", slot), content, seed);
        }
        let point = rig.host().freeze(&vm, &slots, Consistency::Crash).unwrap();
        for (slot, content) in slots.iter().zip(&mut contents) {
            let frozen = content.clone();
            scribble(&mut rig.connect("web", slot), content, seed + 10);
            let mut found = vec![0; to_usize(SIZE)];
            let disk = rig.open(&vm, &point, slot);
            disk.read_at(0, &mut found).unwrap();
            assert!(found == frozen, "{slot} is not what it was");
        }
        rig.host().commit(&vm, &point.id).unwrap();
        rig.wait_merged(&vm);
    }
    rig.turn_off(&vm);
    for (disk, content) in rig.describe(&vm).disks.iter().zip(&contents) {
        qemu_agrees(disk.path.as_ref(), content);
    }
    assert_eq!(images_in(&rig.home("web")).len(), 4);
}

/// A disk, and the name of its child: 7-Zip looks for parents nowhere else.
fn in_one_folder(rig: &Rig, format: Format) -> (PathBuf, PathBuf) {
    let folder = rig.path("disks");
    std::fs::create_dir(&folder).unwrap();
    let extension = match format {
        Format::Vhd => "vhd",
        _ => "vhdx",
    };
    let [parent, child] =
        ["parent", "child"].map(|name| folder.join(name).with_extension(extension));
    let now = Timestamp::UNIX_EPOCH;
    let options = CreateOptions::new(format, Allocation::Dynamic, SIZE, Uuid::new_v4(), now);
    let made = formats::create(&parent, &options).unwrap();
    made.close().unwrap();
    (parent, child)
}

fn make_child(child: &Path, parent: &Path) {
    let options = ChildOptions {
        block_size: None,
        identifier: Uuid::new_v4(),
        created: Timestamp::UNIX_EPOCH,
    };
    let made = formats::create_child(child, parent, &options).unwrap();
    made.close().unwrap();
}

#[test]
fn a_frozen_chain_is_a_good_chain_for_seven_zip_and_a_users_parent_is_never_written() {
    for format in [Format::Vhdx, Format::Vhd] {
        let rig = Rig::start();
        let (parent, own) = in_one_folder(&rig, format);
        let attach = |path: &Path| DiskContent::Existing { path: path.into() };
        let base = rig.machine("base", vec![attach(&parent)]);
        let mut content = vec![0; to_usize(SIZE)];
        scribble(&mut rig.connect("base", &slot(0)), &mut content, 1);
        rig.turn_off(&base);
        make_child(&own, &parent);
        let sealed = std::fs::read(&parent).unwrap();
        let vm = rig.machine("web", vec![attach(&own)]);
        scribble(&mut rig.connect("web", &slot(0)), &mut content, 30);
        let point = rig
            .host()
            .freeze(&vm, &[slot(0)], Consistency::Crash)
            .unwrap();
        let live: PathBuf = rig.describe(&vm).disks[0].path.clone().into();
        assert_ne!(live, own);
        seven_zip_agrees(&own, &content);
        scribble(&mut rig.connect("web", &slot(0)), &mut content, 60);
        rig.turn_off(&vm);
        seven_zip_agrees(&live, &content);
        rig.host().abandon(&vm, &point.id).unwrap();
        rig.wait_merged(&vm);
        assert_eq!(rig.describe(&vm).disks[0].path, own.display().to_string());
        assert!(!live.exists());
        seven_zip_agrees(&own, &content);
        assert!(
            std::fs::read(&parent).unwrap() == sealed,
            "the user's parent was written"
        );
    }
}

#[test]
fn an_image_that_qemu_has_made_is_attached_frozen_and_merged() {
    let rig = Rig::start();
    let path = rig.path("made.vhdx");
    run(tool("qemu-img", debian::QEMU_UTILS)
        .args(["create", "-q", "-f", "vhdx"])
        .arg(&path)
        .arg(SIZE.to_string()));
    let vm = rig.machine("web", vec![DiskContent::Existing { path: path.clone() }]);
    let mut content = vec![0; to_usize(SIZE)];
    scribble(&mut rig.connect("web", &slot(0)), &mut content, 3);
    let point = rig
        .host()
        .freeze(&vm, &[slot(0)], Consistency::Crash)
        .unwrap();
    scribble(&mut rig.connect("web", &slot(0)), &mut content, 9);
    rig.host().abandon(&vm, &point.id).unwrap();
    rig.wait_merged(&vm);
    rig.turn_off(&vm);
    qemu_agrees(&path, &content);
}
