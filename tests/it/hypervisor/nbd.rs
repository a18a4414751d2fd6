//! The NBD server, for clients that are not ours, and for peers that mean no good.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::{ProptestConfig, Strategy, any, prop};
use proptest::{prop_oneof, proptest};
use site_recovery::host::lab::spec::{DiskContent, ImageFormat, ImageKind};
use site_recovery::lab::guest::client::Client;
use site_recovery::lab::tools::debian;
use site_recovery::units::{MIB, to_usize};

use crate::hypervisor::rig::{PATIENCE, Rig, slot, spec};
use crate::outside::{run, tool};

const SIZE: u64 = 12 * MIB;

fn uri(rig: &Rig, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", rig.path("nbd").display())
}

fn nbdinfo(arguments: &[&str]) -> String {
    let said = run(tool("nbdinfo", debian::LIBNBD).args(arguments));
    String::from_utf8(said).unwrap()
}

/// Runs commands of qemu-io on an export.
fn qemu_io(uri: &str, commands: &[&str]) -> String {
    let mut tool = tool("qemu-io", debian::QEMU_UTILS);
    tool.args(["-f", "raw"]);
    for command in commands {
        tool.args(["-c", command]);
    }
    let said = String::from_utf8(run(tool.arg(uri))).unwrap();
    assert!(!said.contains("Pattern verification failed"), "{said}");
    said
}

#[test]
fn nbdinfo_sees_the_exports_of_running_machines_and_what_they_can() {
    let rig = Rig::start();
    let large = DiskContent::New {
        format: ImageFormat::Vhdx,
        kind: ImageKind::Dynamic,
        size: SIZE,
        block_size: None,
        logical_sector: 4096,
        physical_sector: 4096,
    };
    rig.machine("web", vec![DiskContent::vhdx(SIZE), large]);
    rig.console()
        .create(&spec("off", vec![DiskContent::vhdx(SIZE)]))
        .unwrap();
    let all: serde_json::Value =
        serde_json::from_str(&nbdinfo(&["--json", "--list", &uri(&rig, "")])).unwrap();
    let exports = all["exports"].as_array().unwrap();
    let names: Vec<_> = exports
        .iter()
        .map(|export| &export["export-name"])
        .collect();
    assert_eq!(names, ["web/scsi:0:0", "web/scsi:0:1"]);
    for (export, sector) in exports.iter().zip([512, 4096]) {
        assert_eq!(export["export-size"], SIZE);
        assert_eq!(export["block_size_minimum"], sector);
        assert_eq!(export["block_size_preferred"], 4096);
        assert_eq!(export["block_size_maximum"], 32 << 20);
        for can in [
            "can_flush",
            "can_fua",
            "can_trim",
            "can_zero",
            "can_multi_conn",
        ] {
            assert_eq!(export[can], true, "{can}");
        }
        assert_eq!(export["is_read_only"], false);
    }
    assert_eq!(
        nbdinfo(&["--size", &uri(&rig, "web/scsi:0:0")]).trim(),
        SIZE.to_string()
    );
    for absent in ["off/scsi:0:0", "web/scsi:0:7", "nobody/scsi:0:0", "web"] {
        let refused = tool("nbdinfo", debian::LIBNBD)
            .arg(uri(&rig, absent))
            .output();
        assert!(!refused.unwrap().status.success(), "{absent} is there");
    }
}

#[test]
fn nbdcopy_brings_a_disk_in_and_out_over_several_connections() {
    let rig = Rig::start();
    rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let content: Vec<u8> = (0..SIZE)
        .map(|at| {
            if at / MIB % 3 == 1 {
                0
            } else {
                (at / 7 % 251).to_le_bytes()[0]
            }
        })
        .collect();
    let (source, target) = (rig.path("source"), rig.path("target"));
    std::fs::write(&source, &content).unwrap();
    std::fs::write(&target, []).unwrap();
    let uri = uri(&rig, "web/scsi:0:0");
    let nbdcopy = || {
        let mut tool = tool("nbdcopy", debian::LIBNBD);
        tool.args(["--flush", "--connections=4", "--requests=16"]);
        tool
    };
    run(nbdcopy().arg(&source).arg(&uri));
    run(nbdcopy().arg(&uri).arg(&target));
    assert!(std::fs::read(&target).unwrap() == content);
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_back() {
    let rig = Rig::start();
    rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let uri = uri(&rig, "web/scsi:0:0");
    qemu_io(
        &uri,
        &[
            "write -P 0x11 0 3M",
            "write -f -P 0x22 1M 512",
            "write -z 2M 64k",
            "write -z -u 2560k 64k",
            "discard 512k 64k",
            "flush",
        ],
    );
    qemu_io(
        &uri,
        &[
            "read -P 0x11 0 512k",
            "read -P 0 512k 64k",
            "read -P 0x22 1M 512",
            "read -P 0x11 1049088 512",
            "read -P 0 2M 64k",
            "read -P 0x11 2162688 64k",
            "read -P 0 2560k 64k",
            "read -P 0 3M 9M",
        ],
    );
}

#[test]
fn connections_see_each_others_writes_and_a_flush_on_one_covers_all() {
    let mut rig = Rig::start();
    rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let (mut one, mut two) = (rig.connect("web", &slot(0)), rig.connect("web", &slot(0)));
    let mut found = [0; 512];
    one.write(0, &[1; 512]).unwrap();
    two.read(0, &mut found).unwrap();
    assert_eq!(found, [1; 512]);
    two.write(5 * MIB, &[2; 512]).unwrap();
    one.flush().unwrap();
    rig.kill_and_start();
    let mut client = rig.connect("web", &slot(0));
    client.read(5 * MIB, &mut found).unwrap();
    assert_eq!(found, [2; 512]);
}

/// What a peer may say after a handshake that begins well, or at once.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..64);
    let option = (any::<u8>(), any::<u32>(), bytes()).prop_map(|(kind, length, data)| {
        let mut option = 3_u32.to_be_bytes().to_vec();
        option.extend(b"IHAVEOPT");
        option.extend(u32::from(kind % 12).to_be_bytes());
        option.extend((length >> (length % 32)).to_be_bytes());
        option.extend(data);
        option
    });
    let request = (any::<u16>(), any::<u64>(), any::<u32>(), bytes());
    let request = request.prop_map(|(command, offset, length, data)| {
        let name = b"web/scsi:0:0";
        let mut said = 3_u32.to_be_bytes().to_vec();
        said.extend(b"IHAVEOPT");
        said.extend(1_u32.to_be_bytes());
        said.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        said.extend(name);
        said.extend(0x2560_9513_u32.to_be_bytes());
        said.extend((command >> 8).to_be_bytes());
        said.extend((command % 9).to_be_bytes());
        said.extend([0; 8]);
        said.extend((offset >> (offset % 64)).to_be_bytes());
        said.extend(length.to_be_bytes());
        said.extend(data);
        said
    });
    prop_oneof![bytes(), option, request]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn peers_that_mean_no_good_keep_nobody_from_their_disks(
        peers in prop::collection::vec(noise(), 100),
    ) {
        let rig = Rig::start();
        rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
        let mut kept = Vec::new();
        for noise in &peers {
            let mut peer = UnixStream::connect(rig.path("nbd")).unwrap();
            peer.set_write_timeout(Some(PATIENCE)).unwrap();
            // The server may have left before all was said.
            let _ = peer.write_all(noise);
            let _ = peer.shutdown(std::net::Shutdown::Write);
            kept.push(peer);
        }
        for peer in kept {
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut said = Vec::new();
            // Cut off, or answered until the end of what it said.
            let _ = peer.take(64 << 20).read_to_end(&mut said);
        }
        let mut client = rig.connect("web", &slot(0));
        client.write(SIZE - 512, &[7; 512]).unwrap();
        let mut found = vec![0; to_usize(SIZE)];
        client.read(0, &mut found).unwrap();
        assert_eq!(found[found.len() - 512..], [7; 512]);
    }
}

#[test]
fn beyond_the_bound_a_connection_is_closed_and_those_before_it_go_on() {
    let rig = Rig::start();
    rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let mut first = rig.connect("web", &slot(0));
    let mut others = Vec::new();
    let refused = loop {
        assert!(others.len() < 1000, "connections are not bounded");
        match Client::connect(&rig.address(), "web/scsi:0:0", Duration::from_secs(5)) {
            Ok(client) => others.push(client),
            Err(error) => break error,
        }
    };
    assert!(others.len() > 100, "{refused} after {}", others.len());
    first.write(0, &[1; 512]).unwrap();
    drop(others);
    first.flush().unwrap();
}
